/** Disks of a clone: it may read what others read, but its writes must stay private. */
import {
  isOn,
  propertiesOf,
  propertyOf,
  withProperties,
  type Option,
  type Property,
} from './command-line.js';

/** `-hda FILE` and similar, as `-drive` options. */
const SHORT_DISK = /^hd([a-d])$/;
const OTHER_SHORT_DISK = /^(fd[ab]|sd|mtdblock|pflash)$/;
const NO_IMAGE = /^null-(co|aio)/;

export interface OwnDisks {
  readonly options: Option[];
  /** Images with a temporary overlay: the clone's writes go there, and are lost with it. */
  readonly overlaid: readonly string[];
  /** Writable disks that cannot get an overlay. */
  readonly refused: readonly string[];
}

export function discardWrites(options: readonly Option[]): OwnDisks {
  const overlaid: string[] = [];
  const refused: string[] = [];
  const discardsAll = options.some(({ name }) => name === 'snapshot');
  const own = options.map((option) => {
    if (option.name === 'blockdev' && isWritableNode(option, options))
      refused.push(`-blockdev ${option.value}`);
    const drive = asDrive(option);
    if (OTHER_SHORT_DISK.test(option.name) && !discardsAll) refused.push(`-${option.name} ${option.value}`);
    const image = drive && writableImage(drive, discardsAll);
    if (image === undefined) return option;
    overlaid.push(image);
    return withProperties(drive!, { snapshot: 'on' });
  });
  return { options: own, overlaid, refused };
}

function asDrive(option: Option): Option | undefined {
  if (option.name === 'drive') return option;
  const letter = SHORT_DISK.exec(option.name)?.[1];
  if (letter === undefined) return undefined;
  const file = option.value!.replaceAll(',', ',,');
  return { name: 'drive', value: `file=${file},index=${letter.charCodeAt(0) - 0x61},media=disk` };
}

/**
 * Undefined for a drive that is empty, read-only, or has an overlay. A drive on the network is named by its driver.
 * @param discardsAll `-snapshot`: drives have an overlay unless they say otherwise
 */
function writableImage(drive: Option, discardsAll: boolean): string | undefined {
  const get = (key: string) => propertyOf(drive, key);
  const ofImage = ({ key }: { readonly key: string }) => key === 'driver' || key.startsWith('file.');
  const described = propertiesOf(drive).find(ofImage)?.value;
  const image = get('file') ?? get('filename') ?? get('file.filename') ?? described;
  const snapshot = get('snapshot') ?? (discardsAll ? 'on' : 'off');
  const harmless =
    isOn(get('readonly')) || isOn(get('read-only')) || isOn(snapshot) || get('media') === 'cdrom';
  return harmless || image === undefined || NO_IMAGE.test(image) ? undefined : image;
}

/** With auto-read-only, a node is opened for writing only when a device needs that. */
function isWritableNode(node: Option, options: readonly Option[]): boolean {
  if (isOn(propertyOf(node, 'read-only')) || NO_IMAGE.test(propertyOf(node, 'driver') ?? '')) return false;
  const name = propertyOf(node, 'node-name');
  const isFlash = ({ key, value }: Property) => /^pflash\d+$/.test(key) && value === name;
  const isDisk = options.some(
    (option) =>
      (option.name === 'device' && propertyOf(option, 'drive') === name && name !== undefined) ||
      (['machine', 'M'].includes(option.name) && propertiesOf(option).some(isFlash)),
  );
  return !isOn(propertyOf(node, 'auto-read-only')) || isDisk;
}
