/**
 * What prevents a save of a VM, found before anything is changed: operations under way, and parts whose state QEMU
 * cannot hand over. Parts that the command line does not show are refused by the restore (changed-parts.ts).
 */
import { parseCommandLine, propertyOf } from './command-line.js';
import type { VmDescription } from './inspect.js';
import { isMigrating, queryMigrate } from './migration-control.js';
import { jobsUnderWay } from './jobs.js';
import type { QmpClient } from './qmp.js';
import { VmckptError } from '../errors.js';
import type { SaveBlocker } from './save-blocker.js';

/**
 * @param whatEndsMigration advice for a migration that is under way
 * @returns all obstacles; empty for a VM that can be saved
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
  return [...blockers, ...unsupportedStream(vm), ...unsupportedParts(vm)];
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

/** Streams in which it cannot be told where a section ends. */
function unsupportedStream({ machineType, args }: VmDescription): SaveBlocker[] {
  const [, major, minor] = /-(\d+)\.(\d+)$/.exec(machineType) ?? [];
  const isOld = major !== undefined && Number(major) * 1000 + Number(minor) < 2004;
  const without = parseCommandLine(args).find(
    ({ name, value = '' }) => name === 'global' && /\bsend-section-footer\b/.test(value),
  );
  if (!isOld && without === undefined) return [];
  const cause = isOld ? `machine type ${machineType}` : `-global ${without!.value}`;
  const hint = isOld
    ? 'Start it with machine type 2.4 or newer.'
    : 'Start it without that option: vmckpt needs section footers.';
  return [
    {
      code: 'MIGRATION_BLOCKED',
      message: `with ${cause}, QEMU’s streams have no section footers`,
      hint,
    },
  ];
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
