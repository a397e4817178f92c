/** Compares a freshly started QEMU with the machine that was saved, before the VM runs. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import type { RamBlock } from '../pages/layout.js';
import type { QmpClient } from './qmp.js';
import { countDevices, inspectCpu, type VmDescription } from './inspect.js';

/** As in the manifest. */
export interface SavedMachine {
  readonly machine: {
    /** Resolved: `pc-q35-7.2`. */
    readonly type: string;
    readonly cpuModel?: string | undefined;
    /** See `VmDescription.cpu.features`. */
    readonly cpuFeatures?: Readonly<Record<string, number>> | undefined;
    readonly cpuCount?: number | undefined;
    readonly deviceTypes?: Readonly<Record<string, number>> | undefined;
  };
  readonly qemu: { readonly version: string };
  readonly ram: { readonly blocks: readonly RamBlock[] };
}

export interface Comparison {
  /** The user gave the command line, so it may have other devices: those of the saved one do not count. */
  readonly isOwnCommandLine: boolean;
}

/** @throws VmckptError QEMU_INCOMPATIBLE that names every difference, expected against actual */
export async function requireCompatible(
  qmp: QmpClient,
  saved: SavedMachine,
  { isOwnCommandLine }: Comparison,
): Promise<void> {
  // Queried at the same time, because the VM that is being restored waits for the answers.
  const [machine, cpu, devices, blocks] = await Promise.all([
    machineDifference(qmp, saved.machine.type),
    inspectCpu(qmp),
    isOwnCommandLine ? addedDevices(qmp, saved.machine) : [],
    readRamBlocks(qmp),
  ]);
  const others = [
    ...olderVersion(qmp, saved.qemu.version),
    ...machine,
    ...cpuDifferences(cpu, saved.machine),
    ...devices,
    ...ramDifferences(saved.ram.blocks, blocks),
  ];
  const features = lostFeatures(cpu, saved.machine);
  const differences = [...others, ...features];
  if (differences.length === 0) return;
  throw new VmckptError(
    'QEMU_INCOMPATIBLE',
    `this QEMU is not the machine that was saved: ${differences.join('; ')}`,
    { hint: others.length > 0 ? MACHINE_HINT : featuresHint(qmp, saved) },
  );
}

const MACHINE_HINT =
  'Use the saved command line and a QEMU at least as new as the saver’s, on a host with the same CPU features.';

/** A newer QEMU may have dropped features of `max`. With the same QEMU, the host lacks them. */
function featuresHint({ version }: QmpClient, { machine, qemu }: SavedMachine): string {
  const restoreIt =
    version.text === qemu.version
      ? 'Restore it on a host whose CPU has these features.'
      : `Restore it with the QEMU that saved it, ${qemu.version} (--qemu names it), on a host with the same CPU features.`;
  if (!OPEN_MODELS.has(machine.cpuModel ?? '')) return restoreIt;
  return `${restoreIt} A VM moves to other QEMUs and hosts if it is started with a named CPU model (-cpu MODEL) before it is saved, not with -cpu ${machine.cpuModel}.`;
}

/** Models that contain whatever QEMU has on its host. */
const OPEN_MODELS: ReadonlySet<string> = new Set(['max', 'host']);

export interface RamBlockSize {
  readonly name: string;
  readonly usedBytes: number;
  /** The size to which a resizable block may grow. */
  readonly maxBytes: number;
  /** Page size of the memory: more than 4096 on hugetlbfs. */
  readonly pageBytes: number;
  /** In QEMU's own numbering of all memory. */
  readonly offset: number;
  /** Undefined where the version does not print it. */
  readonly hostAddress?: number;
}

const UNIT_BYTES: Readonly<Record<string, number>> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** The RAM blocks of a QEMU, from its human monitor: QMP has no such command. */
export async function readRamBlocks(qmp: QmpClient): Promise<RamBlockSize[]> {
  const text = await qmp.query(v.string(), 'human-monitor-command', { 'command-line': 'info ramblock' });
  // Name, page size and its unit, offset, used, total, and in newer versions the host address.
  const rows = text.matchAll(
    /^ *(\S.*?) +(\d+) ([KMG])iB +0x([0-9a-f]+) +0x([0-9a-f]+) +0x([0-9a-f]+)(?: +0x([0-9a-f]+))?/gm,
  );
  return Array.from(rows, ([, name, page, unit, offset, used, total, host]) => ({
    name: name!,
    pageBytes: Number(page) * UNIT_BYTES[unit!]!,
    offset: Number.parseInt(offset!, 16),
    usedBytes: Number.parseInt(used!, 16),
    maxBytes: Number.parseInt(total!, 16),
    ...(host !== undefined && { hostAddress: Number.parseInt(host, 16) }),
  }));
}

function olderVersion({ version }: QmpClient, savedText: string): string[] {
  const match = /^(\d+)\.(\d+)/.exec(savedText);
  if (match === null) return [];
  const [major, minor] = [Number(match[1]), Number(match[2])];
  const older = version.major < major || (version.major === major && version.minor < minor);
  return older ? [`QEMU ${version.text} is older than the saver's ${savedText}`] : [];
}

async function machineDifference(qmp: QmpClient, savedType: string): Promise<string[]> {
  const type = await qmp.query(v.string(), 'qom-get', { path: '/machine', property: 'type' });
  const actual = type.replace(/-machine$/, '');
  return actual === savedType ? [] : [`expected machine type ${savedType}, found ${actual}`];
}

type Cpu = VmDescription['cpu'];

function cpuDifferences(cpu: Cpu, { cpuModel, cpuCount = cpu.count }: SavedMachine['machine']): string[] {
  if (cpuModel === undefined) return [];
  if (cpu.model !== cpuModel) return [`expected CPU model ${cpuModel}, found ${cpu.model}`];
  return cpu.count === cpuCount ? [] : [`expected ${cpuCount} vCPUs, found ${cpu.count}`];
}

function lostFeatures(cpu: Cpu, { cpuModel, cpuFeatures = {} }: SavedMachine['machine']): string[] {
  if (cpu.model !== cpuModel) return [];
  const lost = Object.entries(cpuFeatures).flatMap(([word, bits]) => {
    const missing = (bits & ~(cpu.features[word] ?? 0)) >>> 0;
    return missing === 0 ? [] : [`${word}=0x${missing.toString(16)}`];
  });
  return lost.length === 0
    ? []
    : [`the CPU lacks features that the guest was given (CPUID ${lost.join(', ')})`];
}

/**
 * QEMU loads a state that lacks a device, and the guest then meets a device that was never set up. QEMU itself
 * refuses a missing device, and its built-in devices depend on its version, so only devices made by options count.
 */
async function addedDevices(qmp: QmpClient, { deviceTypes }: SavedMachine['machine']): Promise<string[]> {
  if (deviceTypes === undefined) return [];
  const { given, all } = await countDevices(qmp);
  return Object.keys(given).flatMap((type) => {
    const added = (all[type] ?? 0) - (deviceTypes[type] ?? 0);
    return added > 0 ? [`${added} more of the device ${type} than expected`] : [];
  });
}

function ramDifferences(saved: readonly RamBlock[], actual: readonly RamBlockSize[]): string[] {
  if (actual.length === 0) return [];
  return saved.flatMap(({ name, usedBytes }) => {
    const block = actual.find((candidate) => candidate.name === name);
    if (block === undefined) return [`it has no RAM block "${name}" (${usedBytes} bytes)`];
    const resizable = block.maxBytes > block.usedBytes;
    if (resizable ? usedBytes <= block.maxBytes : usedBytes === block.usedBytes) return [];
    return [`expected RAM block "${name}" of ${usedBytes} bytes, found ${block.usedBytes} bytes`];
  });
}
