/**
 * What speaks against saving a VM, found before anything is changed: parts that its command line does not show
 * (a restore would drop them silently), and parts whose state QEMU cannot give away.
 */
import { type Option, parseCommandLine, propertyOf } from './command-line.js';
import { givenDrives, givenNodes } from './given-images.js';
import { describePlace, isSamePlace, placeOfName, placeOfNode, type ImagePlace } from './image-reference.js';
import type { VmDescription } from './inspect.js';
import { isMigrating, queryMigrate } from './migration-control.js';
import { jobsUnderWay } from './jobs.js';
import type { QmpClient } from './qmp.js';
import { VmckptError } from '../errors.js';
import type { SaveBlocker } from './save-blocker.js';

/**
 * @param whatEndsMigration what to do about a migration that is under way
 * @returns everything that is in the way; empty for a VM that can be saved
 */
export async function blockersOfSave(
  qmp: QmpClient,
  vm: VmDescription,
  whatEndsMigration = 'Wait until it has ended, or cancel it.',
): Promise<SaveBlocker[]> {
  const migration = await queryMigrate(qmp);
  const blockers: SaveBlocker[] = [];
  if (isMigrating(migration.status))
    blockers.push({
      code: 'VM_BUSY',
      message: `a migration is under way (${migration.status})`,
      hint: whatEndsMigration,
    });
  for (const reason of migration.blockedReasons)
    blockers.push({
      code: 'MIGRATION_BLOCKED',
      message: `QEMU says: ${reason}`,
      hint: 'Remove that device from the VM.',
    });
  blockers.push(...(await jobsUnderWay(qmp)));
  return [...blockers, ...unsupportedParts(vm), ...unaccountedParts(vm)];
}

/** @throws VmckptError MIGRATION_BLOCKED or VM_BUSY that names all of them */
export async function refuseBlockers(
  qmp: QmpClient,
  vm: VmDescription,
  whatEndsMigration?: string,
): Promise<void> {
  const blockers = await blockersOfSave(qmp, vm, whatEndsMigration);
  const [first] = blockers;
  if (first === undefined) return;
  const message = `the VM cannot be saved: ${blockers.map((blocker) => blocker.message).join('; ')}`;
  throw new VmckptError(first.code, message, { hint: first.hint });
}

function unsupportedParts(vm: VmDescription): SaveBlocker[] {
  const found: string[] = [];
  for (const { id, kind } of vm.memoryDevices)
    if (kind !== 'dimm') found.push(`the memory device "${id}" is of the kind ${kind}`);
  const types = [...vm.devices.named, ...vm.devices.anonymous.map((type) => ({ id: '', type }))];
  for (const { id, type } of types) {
    const name = id === '' ? type : `${type} "${id}"`;
    if (/^vhost-user-/.test(type)) found.push(`${name} keeps its state in another process (vhost-user)`);
    if (/^vfio-/.test(type)) found.push(`${name} is a device of the host (VFIO)`);
  }
  for (const option of parseCommandLine(vm.args))
    if (option.name === 'netdev' && propertyOf(option, 'type') === 'vhost-user')
      found.push(`-netdev ${option.value} keeps its state in another process (vhost-user)`);
  const hint = 'Start it without that part: vmckpt does not save such a VM yet.';
  return found.map((message) => ({ code: 'MIGRATION_BLOCKED', message, hint }));
}

/** Devices, disks and network back-ends that came, went or changed after QEMU's start. */
function unaccountedParts(vm: VmDescription): SaveBlocker[] {
  const options = parseCommandLine(vm.args);
  const changes = [
    ...changedDevices(vm, options),
    ...changedDisks(vm, options),
    ...addedNetdevs(vm, options),
  ];
  const hint =
    'The command line of QEMU does not show it, so a restore would lose it: put the VM back to how it was started, or restart it with a command line that shows it.';
  return changes.map((message) => ({ code: 'MIGRATION_BLOCKED', message, hint }));
}

function changedDevices(vm: VmDescription, options: readonly Option[]): string[] {
  const devices = options.filter(({ name }) => name === 'device');
  const given = new Map(
    devices.map((option) => [propertyOf(option, 'id'), propertyOf(option, 'driver') ?? '']),
  );
  if (options.some(({ name }) => name === 'debugcon')) given.set('debugcon', 'isa-debugcon');
  const found: string[] = [];
  for (const { id, type } of vm.devices.named)
    if (!given.has(id)) found.push(`the device "${id}" (${type}) was plugged in after the start`);
  for (const [id, driver] of given)
    if (id !== undefined && !vm.devices.named.some((device) => device.id === id))
      found.push(`the device "${id}" (${driver}) was removed after the start`);
  const expected =
    devices.filter((option) => propertyOf(option, 'id') === undefined).length + devicesOfShorthands(options);
  const actual = vm.devices.anonymous.length;
  if (actual !== expected)
    found.push(
      `${actual} devices without an id (${vm.devices.anonymous.join(', ')}), ${expected} expected by the command line`,
    );
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

/** A disk is accounted for when its data comes from where the command line says, however either spells it. */
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
  return vm.disks.flatMap(({ device, node, file, temporary, backingFile = '' }) => {
    const shown = placeOfName(temporary ? backingFile : file);
    if (given(device, node).some((place) => place !== undefined && isSamePlace(place, shown, vm.cwd ?? '/')))
      return [];
    return [
      `the disk "${device || node}" has the image ${describePlace(shown)}, which is not the one it was started with`,
    ];
  });
}

function addedNetdevs(vm: VmDescription, options: readonly Option[]): string[] {
  const given = new Set(options.map((option) => propertyOf(option, 'id')));
  // QEMU gives names with # to what -nic and -net create without an id, and "hub" to its own hubs.
  return vm.netdevs
    .filter((id) => !given.has(id) && !id.startsWith('#') && !/^hub ?\d/.test(id))
    .map((id) => `the network back-end "${id}" was added after the start`);
}
