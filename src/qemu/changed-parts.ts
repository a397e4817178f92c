/**
 * Parts of a VM that were added, removed or changed after QEMU's start. The command line then makes another machine,
 * which cannot load what was saved, or has other disks. Names prove nothing; QEMU marks what was plugged in.
 */
import { parseCommandLine, propertyOf, type Option } from './command-line.js';
import { givenDrives, givenNodes } from './given-images.js';
import { describePlace, isSamePlace, placeOfName, placeOfNode, type ImagePlace } from './image-reference.js';
import type { Disk, VmDescription } from './inspect.js';

/** @returns one clause of a sentence for each */
export function changedParts(vm: VmDescription): string[] {
  const options = parseCommandLine(vm.args);
  // The options in a file are unknown.
  if (options.some(({ name }) => name === 'readconfig')) return pluggedDevices(vm, new Map());
  return [...changedDevices(vm, options), ...changedDisks(vm, options), ...addedNetdevs(vm, options)];
}

/** Id → driver. */
type GivenDevices = ReadonlyMap<string | undefined, string>;

/** A device that replaces another has its id, but may differ in everything else. */
function pluggedDevices({ devices }: VmDescription, given: GivenDevices): string[] {
  return devices.plugged.map(({ id, type }) => {
    if (id === undefined) return `a device without an id (${type}) was plugged in after the start`;
    const place = given.has(id) ? `, in the place of the one in the command line (${given.get(id)})` : '';
    return `the device "${id}" (${type}) was plugged in after the start${place}`;
  });
}

function changedDevices(vm: VmDescription, options: readonly Option[]): string[] {
  const { named, anonymous, plugged } = vm.devices;
  const devices = options.filter(({ name }) => name === 'device');
  const given = new Map(
    devices.map((option) => [propertyOf(option, 'id'), propertyOf(option, 'driver') ?? '']),
  );
  if (options.some(({ name }) => name === 'debugcon')) given.set('debugcon', 'isa-debugcon');
  const has = (list: readonly { readonly id?: string | undefined }[], id: string | undefined) =>
    list.some((device) => device.id === id);
  const found = pluggedDevices(vm, given);
  for (const { id, type } of named)
    if (!given.has(id) && !has(plugged, id))
      found.push(`the device "${id}" (${type}) is not in the command line`);
  for (const [id, driver] of given)
    if (id !== undefined && !has(named, id))
      found.push(`the device "${id}" (${driver}) was removed after the start`);
  const expected =
    devices.filter((option) => propertyOf(option, 'id') === undefined).length + devicesOfShorthands(options);
  const actual = anonymous.length - plugged.filter(({ id }) => id === undefined).length;
  if (actual !== expected)
    found.push(`${actual} devices without an id (${anonymous.join(', ')}), the command line has ${expected}`);
  return found;
}

/** Options that QEMU turns into a -device without id. */
function devicesOfShorthands(options: readonly Option[]): number {
  return options.filter(
    (option) =>
      ['virtfs', 'watchdog', 'balloon'].includes(option.name) ||
      (option.name === 'drive' && propertyOf(option, 'if') === 'virtio'),
  ).length;
}

/** A disk is accounted for if its data comes from where the command line says, however each of them spells it. */
function changedDisks(vm: VmDescription, options: readonly Option[]): string[] {
  const drives = givenDrives(options);
  const nodes = givenNodes(options);
  const given = (device: string, node: string): readonly (ImagePlace | undefined)[] => {
    const named = drives.filter(({ id }) => id === device && device !== '');
    if (named.length > 0) return named.map(({ place }) => place);
    const stack = nodes.get(node);
    if (stack !== undefined) return [placeOfNode(stack, nodes)];
    return drives.filter(({ id }) => id === undefined).map(({ place }) => place);
  };
  return vm.disks.flatMap((disk) => {
    const { device, node, file, temporary, backingFile = '' } = disk;
    const shown = placeOfName(temporary ? backingFile : file);
    if (given(device, node).some((place) => place !== undefined && isSamePlace(place, shown, vm.cwd ?? '/')))
      return otherDrive(disk, options);
    return [
      `the disk "${device || node}" has the image ${describePlace(shown)}, which is not the one it was started with`,
    ];
  });
}

/** A device that now has another drive of the same command line. */
function otherDrive({ device, node, owner = '' }: Disk, options: readonly Option[]): string[] {
  const id = /^(?:\/machine\/peripheral\/)?([^/]+)/.exec(owner)?.[1];
  const option = options.find((each) => each.name === 'device' && propertyOf(each, 'id') === id);
  const given = id === undefined ? undefined : option && propertyOf(option, 'drive');
  // A drive keeps its id when a snapshot replaces its node.
  const drive = options.find((each) => each.name === 'drive' && propertyOf(each, 'id') === device);
  const names = [device, node, drive && propertyOf(drive, 'node-name')];
  if (given === undefined || names.includes(given)) return [];
  return [`the device "${id}" has the drive "${device || node}", and "${given}" in the command line`];
}

/** A netdev with the name of another one saves its state under another number. */
function addedNetdevs(vm: VmDescription, options: readonly Option[]): string[] {
  const given = new Set(options.map((option) => propertyOf(option, 'id')));
  // QEMU gives names with # to what -nic and -net create without an id, and "hub" to its own hubs.
  const added = vm.netdevs.filter((id) => !given.has(id) && !id.startsWith('#') && !/^hub ?\d/.test(id));
  const again = vm.addedNetdevs.filter((id) => given.has(id));
  return [
    ...added.map((id) => `the network back-end "${id}" was added after the start`),
    ...again.map((id) => `the network back-end "${id}" was removed and added again after the start`),
  ];
}
