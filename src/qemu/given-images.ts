/** Which images a command line gives to which drives. */
import { propertiesOf, propertyOf, withProperties, type Option } from './command-line.js';
import {
  nodeOptionsOf,
  placeOfName,
  placeOfNode,
  type ImagePlace,
  type NamedNodes,
  type NodeOptions,
} from './image-reference.js';

/** `-hda FILE` and similar, as `-drive` options. */
const SHORT_DRIVES: Readonly<Record<string, string>> = {
  hda: 'index=0,media=disk',
  hdb: 'index=1,media=disk',
  hdc: 'index=2,media=disk',
  hdd: 'index=3,media=disk',
  cdrom: 'index=2,media=cdrom',
  fda: 'if=floppy,index=0',
  fdb: 'if=floppy,index=1',
  sd: 'if=sd',
  mtdblock: 'if=mtd',
  pflash: 'if=pflash',
};

/** A drive of the command line: `-drive`, or one of its short forms. */
export interface GivenDrive {
  /** Its index in the command line. */
  readonly index: number;
  readonly option: Option;
  /** Undefined: QEMU generates one. */
  readonly id: string | undefined;
  /** Undefined: it starts empty. */
  readonly place: ImagePlace | undefined;
}

export function givenDrives(options: readonly Option[]): GivenDrive[] {
  return options.flatMap((option, index) => {
    if (SHORT_DRIVES[option.name] !== undefined)
      return [{ index, option, id: undefined, place: placeOfName(option.value ?? '') }];
    if (option.name !== 'drive') return [];
    return [{ index, option, id: propertyOf(option, 'id'), place: placeOfDrive(option) }];
  });
}

/** The nodes that `-blockdev` makes, by name. */
export function givenNodes(options: readonly Option[]): NamedNodes {
  const nodes = new Map<string, NodeOptions>();
  for (const option of options) {
    if (option.name !== 'blockdev') continue;
    for (const [name, node] of namedNodesIn(nodeOptionsOf(propertiesOf(option)))) nodes.set(name, node);
  }
  return nodes;
}

/** A short form as `-drive`, with another image. Undefined: without an image. */
export function withImage(option: Option, image: { file: string; format: string } | undefined): Option {
  const base = option.name === 'drive' ? option : { name: 'drive', value: SHORT_DRIVES[option.name] ?? '' };
  const ofImage = propertiesOf(base).filter(({ key }) =>
    /^(file|filename|format|driver|backing)(\.|$)/.test(key),
  );
  const removed = Object.fromEntries(ofImage.map(({ key }) => [key, undefined]));
  const bare = withProperties(base, removed);
  return image === undefined ? bare : withProperties(bare, { ...image });
}

function placeOfDrive(option: Option): ImagePlace | undefined {
  const properties = propertiesOf(option);
  const file = propertyOf(option, 'file') ?? propertyOf(option, 'filename');
  if (file !== undefined) return file === '' ? undefined : placeOfName(file);
  const tree = nodeOptionsOf(properties);
  return properties.some(({ key }) => key === 'driver' || key.startsWith('file.'))
    ? placeOfNode(tree)
    : undefined;
}

/** A node, and all named nodes inside it. */
function namedNodesIn(node: NodeOptions): [string, NodeOptions][] {
  const own: [string, NodeOptions][] =
    typeof node['node-name'] === 'string' ? [[node['node-name'], node]] : [];
  const inner = Object.values(node).filter((value) => typeof value === 'object');
  return [...own, ...inner.flatMap((value) => namedNodesIn(value))];
}
