/**
 * What a running QEMU is made of, asked through QMP and /proc: everything that a restore needs to build the same
 * machine again, and to notice that it cannot. Plain JSON, kept in the manifest.
 */
import { readFileSync, readlinkSync, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { VmckptError } from '../errors.js';
import { identifyProcess } from '../util/process-identity.js';
import { parseCommandLine } from './command-line.js';
import type { QmpClient } from './qmp.js';

export const VmDescription = z.object({
  pid: z.number().int(),
  /** With `pid`, names the process for ever (see util/process-identity). */
  startTicks: z.number().int(),
  binary: z.string(),
  /** Without the program's own name. */
  args: z.array(z.string()),
  /** Relative paths in `args` are meant from here. */
  cwd: z.string(),
  version: z.object({ major: z.number(), minor: z.number(), micro: z.number(), text: z.string() }),
  /** QEMU's RunState: `running`, `paused`, `postmigrate`, … */
  status: z.string(),
  running: z.boolean(),
  /** Resolved: `pc-q35-7.2`, never an alias. */
  machineType: z.string(),
  accelerator: z.enum(['kvm', 'tcg']),
  cpu: z.object({
    /** Resolved: `qemu64`, `host`, `max`, … */
    model: z.string(),
    count: z.number().int(),
    /** What the guest sees: CPUID leaf and register → its bits; empty where QEMU does not tell. */
    features: z.record(z.string(), z.number()),
  }),
  ramBytes: z.number().int(),
  memoryBackends: z.array(
    z.object({
      id: z.string(),
      /** `memory-backend-ram`, `-file`, `-memfd`, … */
      type: z.string(),
      sizeBytes: z.number().int(),
      share: z.boolean(),
      path: z.string().optional(),
    }),
  ),
  /** Memory that can be plugged, by id and kind: `dimm`, `virtio-mem`, … */
  memoryDevices: z.array(z.object({ id: z.string(), kind: z.string() })),
  /** Devices with an id, and the types of those without one, in their order. */
  devices: z.object({
    named: z.array(z.object({ id: z.string(), type: z.string() })),
    anonymous: z.array(z.string()),
  }),
  /** What is attached to the VM as a disk; an empty drive is left out. */
  disks: z.array(
    z.object({
      /** The `-drive` id; empty for a `-blockdev` that a device names. */
      device: z.string(),
      node: z.string(),
      file: z.string(),
      format: z.string(),
      readOnly: z.boolean(),
      sizeBytes: z.number().int(),
      /** snapshot=on: what the guest has written is lost with QEMU. Counts as writable. */
      temporary: z.boolean(),
      /** The image below a temporary one. */
      backingFile: z.string().optional(),
    }),
  ),
  /** Nodes that were given a name. */
  blockNodes: z.array(
    z.object({ node: z.string(), driver: z.string(), file: z.string(), readOnly: z.boolean() }),
  ),
  netdevs: z.array(z.string()),
  chardevs: z.array(z.object({ id: z.string(), target: z.string() })),
});
export type VmDescription = z.infer<typeof VmDescription>;

/**
 * @throws VmckptError NOT_PERMITTED when QEMU's process belongs to somebody else, FAILED when the socket's peer is
 * no process of this host, and whatever QMP throws
 */
export async function inspectVm(qmp: QmpClient): Promise<VmDescription> {
  const cpus = await qmp.query(CpuList, 'query-cpus-fast');
  const processFacts = readProcess(pidOf(qmp, cpus[0]?.['thread-id']));
  const status = await qmp.query(Status, 'query-status');
  const kvm = await qmp.query(Kvm, 'query-kvm');
  const memory = await qmp.query(MemorySize, 'query-memory-size-summary');
  const block = await qmp.query(BlockList, 'query-block');
  const nodes = await qmp.query(NodeList, 'query-named-block-nodes');
  const chardevs = await qmp.query(ChardevList, 'query-chardev');
  const memoryDevices = await qmp.query(MemoryDevices, 'query-memory-devices');
  const machine = await typeOf(qmp, '/machine');
  return {
    ...processFacts,
    version: qmp.version,
    status: status.status,
    running: status.running,
    machineType: machine.replace(/-machine$/, ''),
    accelerator: kvm.enabled ? 'kvm' : 'tcg',
    cpu: await inspectCpu(qmp),
    ramBytes: memory['base-memory'] + (memory['plugged-memory'] ?? 0),
    memoryBackends: await inspectMemoryBackends(qmp),
    memoryDevices: memoryDevices.map(({ type, data }, index) => ({ id: data.id ?? `#${index}`, kind: type })),
    devices: {
      named: (await childrenOf(qmp, '/machine/peripheral')).map(({ name, type }) => ({ id: name, type })),
      anonymous: (await childrenOf(qmp, '/machine/peripheral-anon')).map(({ type }) => type),
    },
    disks: block.flatMap(({ device, inserted }) =>
      inserted === undefined ? [] : [describeDisk(device, inserted)],
    ),
    blockNodes: nodes
      .filter((node) => !node['node-name'].startsWith('#'))
      .map((node) => ({ node: node['node-name'], driver: node.drv, file: node.file, readOnly: node.ro })),
    netdevs: await listNetdevs(qmp),
    chardevs: chardevs.map(({ label, filename }) => ({ id: label, target: filename })),
  };
}

const CpuList = z.array(z.object({ 'thread-id': z.number(), 'qom-path': z.string() }));
const Status = z.object({ status: z.string(), running: z.boolean() });
const Kvm = z.object({ enabled: z.boolean() });
const MemorySize = z.object({ 'base-memory': z.number(), 'plugged-memory': z.number().optional() });
const MemoryDevices = z.array(z.object({ type: z.string(), data: z.object({ id: z.string().optional() }) }));
const MemoryBackends = z.array(
  z.object({ id: z.string().optional(), size: z.number(), share: z.boolean().default(false) }),
);
const Node = z.object({
  'node-name': z.string(),
  drv: z.string(),
  file: z.string(),
  ro: z.boolean(),
  backing_file: z.string().optional(),
  image: z.object({ format: z.string(), 'virtual-size': z.number() }),
});
const NodeList = z.array(Node);
const BlockList = z.array(z.object({ device: z.string(), inserted: Node.optional() }));
const ChardevList = z.array(z.object({ label: z.string(), filename: z.string() }));
const FeatureWords = z.array(
  z.object({
    'cpuid-register': z.string(),
    'cpuid-input-eax': z.number(),
    'cpuid-input-ecx': z.number().optional(),
    features: z.number(),
  }),
);
const QomProperties = z.array(z.object({ name: z.string(), type: z.string() }));

/** The peer of the socket, unless that only handed the socket over (libvirt): then the owner of the vCPU thread. */
function pidOf(qmp: QmpClient, vcpuThread: number | undefined): number {
  const peer = qmp.peerPid();
  if (vcpuThread === undefined || exists(`/proc/${peer}/task/${vcpuThread}`)) return peer;
  try {
    const group = /^Tgid:\s*(\d+)$/m.exec(readFileSync(`/proc/${vcpuThread}/status`, 'latin1'));
    return group === null ? peer : Number(group[1]);
  } catch {
    return peer; // QEMU counts its threads in a namespace of its own.
  }
}

function readProcess(pid: number): Pick<VmDescription, 'pid' | 'startTicks' | 'binary' | 'args' | 'cwd'> {
  const identity = identifyProcess(pid);
  if (identity === undefined)
    throw new VmckptError('FAILED', `QEMU's process ${pid} is not visible from here`, {
      hint: 'Run vmckpt on the host (and in the pid namespace) where QEMU runs.',
    });
  try {
    const [binary = '', ...args] = readFileSync(`/proc/${pid}/cmdline`, 'utf8')
      .replace(/\0$/, '')
      .split('\0');
    return { ...identity, binary, args, cwd: startFolder(pid, args) };
  } catch (cause) {
    const hint = 'Run vmckpt as the user who started QEMU, or as root.';
    throw new VmckptError('NOT_PERMITTED', `no permission to read the command line of process ${pid}`, {
      hint,
      cause,
    });
  }
}

/** A QEMU that went into the background has changed to the root folder: its environment tells where it was started. */
function startFolder(pid: number, args: readonly string[]): string {
  const now = readlinkSync(`/proc/${pid}/cwd`);
  if (!parseCommandLine(args).some(({ name }) => name === 'daemonize')) return now;
  const environment = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0');
  const before = environment.find((entry) => entry.startsWith('PWD='))?.slice('PWD='.length);
  return before !== undefined && path.isAbsolute(before) && exists(before) ? before : now;
}

/** What the guest knows as its processors; `features` is what makes `host` and `max` comparable. */
export async function inspectCpu(qmp: QmpClient): Promise<VmDescription['cpu']> {
  const cpus = await qmp.query(CpuList, 'query-cpus-fast');
  const qomPath = cpus[0]?.['qom-path'] ?? '';
  const model = (await typeOf(qmp, qomPath)).replace(/-[^-]+-cpu$/, '');
  const words = await qmp
    .query(FeatureWords, 'qom-get', { path: qomPath, property: 'feature-words' })
    .catch(() => []);
  const features: Record<string, number> = {};
  for (const word of words) {
    const key = `${word['cpuid-input-eax'].toString(16)}.${word['cpuid-input-ecx'] ?? 0}.${word['cpuid-register']}`;
    features[key] = ((features[key] ?? 0) | word.features) >>> 0;
  }
  return { model, count: cpus.length, features };
}

async function inspectMemoryBackends(qmp: QmpClient): Promise<VmDescription['memoryBackends']> {
  const described = [];
  for (const { id, size, share } of await qmp.query(MemoryBackends, 'query-memdev')) {
    const object = `/objects/${id}`;
    const type = id === undefined ? 'unknown' : await typeOf(qmp, object);
    const base = { id: id ?? 'unknown', type, sizeBytes: size, share };
    if (type !== 'memory-backend-file') described.push(base);
    else described.push({ ...base, path: await memoryPathOf(qmp, object) });
  }
  return described;
}

function memoryPathOf(qmp: QmpClient, object: string): Promise<string> {
  return qmp.query(z.string(), 'qom-get', { path: object, property: 'mem-path' });
}

function describeDisk(device: string, node: z.infer<typeof Node>): VmDescription['disks'][number] {
  const temporary = /\/vl\.[A-Za-z0-9]{6}"?\}*$/.test(node.file);
  const disk = {
    device,
    node: node['node-name'],
    file: node.file,
    format: node.image.format,
    readOnly: node.ro,
    sizeBytes: node.image['virtual-size'],
    temporary,
  };
  return node.backing_file === undefined ? disk : { ...disk, backingFile: node.backing_file };
}

/** QMP has no list of network back-ends; the monitor for people has: `net0: index=0,type=user,…`. */
async function listNetdevs(qmp: QmpClient): Promise<string[]> {
  const text = await qmp.query(z.string(), 'human-monitor-command', { 'command-line': 'info network' });
  const ids = text.matchAll(/^[ \\]*([^:\s]+): index=\d+,type=(?!nic)/gm);
  return [...new Set([...ids].map(([, id]) => id!))];
}

async function childrenOf(qmp: QmpClient, parent: string): Promise<{ name: string; type: string }[]> {
  const properties = await qmp.query(QomProperties, 'qom-list', { path: parent });
  return properties.flatMap(({ name, type }) => {
    const child = /^child<(.*)>$/.exec(type);
    return child === null ? [] : [{ name, type: child[1]! }];
  });
}

function typeOf(qmp: QmpClient, object: string): Promise<string> {
  return qmp.query(z.string(), 'qom-get', { path: object, property: 'type' });
}

function exists(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false }) !== undefined;
}
