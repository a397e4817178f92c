/** Which images a command line gives to which drives. */
import { propertiesOf, propertyOf, type Option } from './command-line.js';
import {
  nodeOptionsOf,
  placeOfName,
  placeOfNode,
  type ImagePlace,
  type NamedNodes,
  type NodeOptions,
} from './image-reference.js';

/** Options whose value is the name of an image, and nothing else. */
const SHORT_DRIVES: ReadonlySet<string> = new Set(
  'hda hdb hdc hdd cdrom fda fdb sd mtdblock pflash'.split(' '),
);

/** A drive of the command line: `-drive`, or one of its short forms. */
export interface GivenDrive {
  /** Undefined: QEMU makes one up. */
  readonly id: string | undefined;
  /** Undefined: it begins empty. */
  readonly place: ImagePlace | undefined;
}

export function givenDrives(options: readonly Option[]): GivenDrive[] {
  return options.flatMap((option) => {
    if (SHORT_DRIVES.has(option.name)) return [{ id: undefined, place: placeOfName(option.value ?? '') }];
    if (option.name !== 'drive') return [];
    return [{ id: propertyOf(option, 'id'), place: placeOfDrive(option) }];
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

function placeOfDrive(option: Option): ImagePlace | undefined {
  const properties = propertiesOf(option);
  const file = propertyOf(option, 'file') ?? propertyOf(option, 'filename');
  if (file !== undefined) return file === '' ? undefined : placeOfName(file);
  const tree = nodeOptionsOf(properties);
  return properties.some(({ key }) => key === 'driver' || key.startsWith('file.'))
    ? placeOfNode(tree)
    : undefined;
}

/** A node and those inside of it that have names as well. */
function namedNodesIn(node: NodeOptions): [string, NodeOptions][] {
  const own: [string, NodeOptions][] =
    typeof node['node-name'] === 'string' ? [[node['node-name'], node]] : [];
  const inner = Object.values(node).filter((value) => typeof value === 'object');
  return [...own, ...inner.flatMap((value) => namedNodesIn(value))];
}
