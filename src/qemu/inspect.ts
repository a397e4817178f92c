/**
 * Describes a running QEMU, through QMP and /proc: everything that a restore needs to build the same machine again,
 * and to notice when it cannot. Plain JSON; the manifest keeps a part of it (manifest-parts.ts).
 */
import path from 'node:path';
import * as v from 'valibot';
import { processContextSchema } from '../util/process-schema.js';
import { integer, record } from '../util/schema.js';
import { placeOfName } from './image-reference.js';
import { pidOf, readProcess } from './inspect-process.js';
import { fromOwnFolder } from './named-files.js';
import type { QmpClient } from './qmp.js';

export const VmDescription = v.object({
  pid: integer,
  /** Together with `pid`, identifies the process forever (see util/process-identity). */
  startTicks: integer,
  /** It runs as this process's user, and as no other. */
  isOwn: v.boolean(),
  binary: v.string(),
  /** Without the program's own name. */
  args: v.array(v.string()),
  /** The folder from which relative paths in `args` are resolved; undefined if unknown. */
  cwd: v.optional(v.string()),
  context: processContextSchema,
  version: v.object({ major: v.number(), minor: v.number(), micro: v.number(), text: v.string() }),
  /** QEMU's RunState: `running`, `paused`, `postmigrate`, … */
  status: v.string(),
  running: v.boolean(),
  /** Resolved: `pc-q35-7.2`, never an alias. */
  machineType: v.string(),
  accelerator: v.picklist(['kvm', 'tcg']),
  cpu: v.object({
    /** Resolved: `qemu64`, `host`, `max`, … */
    model: v.string(),
    count: integer,
    /** What the guest sees: CPUID leaf and register → its bits; empty if QEMU does not show it. */
    features: record(v.number()),
  }),
  ramBytes: integer,
  memoryBackends: v.array(
    v.object({
      id: v.string(),
      /** `memory-backend-ram`, `-file`, `-memfd`, … */
      type: v.string(),
      sizeBytes: integer,
      share: v.boolean(),
      path: v.optional(v.string()),
    }),
  ),
  /** Memory that can be plugged, by id and kind: `dimm`, `virtio-mem`, … */
  memoryDevices: v.array(v.object({ id: v.string(), kind: v.string() })),
  /** Devices with an id, and the types of those without one, in order. */
  devices: v.object({
    named: v.array(v.object({ id: v.string(), type: v.string() })),
    anonymous: v.array(v.string()),
    /** The devices that were plugged in while QEMU ran, whatever their names. */
    plugged: v.array(v.object({ id: v.optional(v.string()), type: v.string() })),
  }),
  /** The number of devices of each type, whatever made them: including QEMU itself, and -serial, -vga and similar. */
  deviceTypes: record(integer),
  /** What is attached to the VM as a disk; empty drives are left out. */
  disks: v.array(
    v.object({
      /** The `-drive` id; empty for a `-blockdev` that a device names. */
      device: v.string(),
      node: v.string(),
      /** Id or path of the device that uses it; undefined for an unused drive. */
      owner: v.optional(v.string()),
      file: v.string(),
      format: v.string(),
      readOnly: v.boolean(),
      sizeBytes: integer,
      /** snapshot=on: what the guest writes is lost with QEMU. Counts as writable. */
      temporary: v.boolean(),
      /** The image below a temporary one. */
      backingFile: v.optional(v.string()),
    }),
  ),
  /** Nodes with a name given by the user. */
  blockNodes: v.array(
    v.object({ node: v.string(), driver: v.string(), file: v.string(), readOnly: v.boolean() }),
  ),
  /** Absolute paths of files that QEMU has open for writing as the VM's disks, or as parts of them. */
  writtenImages: v.array(v.string()),
  netdevs: v.array(v.string()),
  /** The ones that were added while QEMU ran, whatever their names. */
  addedNetdevs: v.array(v.string()),
  chardevs: v.array(v.object({ id: v.string(), target: v.string() })),
});
export type VmDescription = v.InferOutput<typeof VmDescription>;
export type Disk = VmDescription['disks'][number];

/**
 * @throws VmckptError NOT_PERMITTED when QEMU's process belongs to another user, FAILED when the socket's peer is not a
 * process of this host, and whatever QMP throws
 */
export async function inspectVm(qmp: QmpClient): Promise<VmDescription> {
  const [cpus, status, kvm, memory, disks, nodes, chardevs, memoryDevices, machine] = await Promise.all([
    qmp.query(CpuList, 'query-cpus-fast'),
    qmp.query(Status, 'query-status'),
    qmp.query(Kvm, 'query-kvm'),
    qmp.query(MemorySize, 'query-memory-size-summary'),
    inspectDisks(qmp),
    qmp.query(NodeList, 'query-named-block-nodes'),
    qmp.query(ChardevList, 'query-chardev'),
    qmp.query(MemoryDevices, 'query-memory-devices'),
    typeOf(qmp, '/machine'),
  ]);
  const pid = pidOf(qmp, cpus[0]?.['thread-id']);
  const images = nodes.filter(({ drv, file }) => FILE_DRIVERS.has(drv) && !TEMPORARY.test(file));
  const facts = readProcess(pid, {
    qmpSocket: qmp.path,
    images: images.map(({ file }) => fromOwnFolder(file)),
    vcpuThread: cpus[0]?.['thread-id'],
  });
  const [cpu, memoryBackends, types, devices, netdevs] = await Promise.all([
    inspectCpu(qmp),
    inspectMemoryBackends(qmp),
    devicesIn(qmp, DEVICE_FOLDERS),
    inspectDevices(qmp),
    listNetdevs(qmp),
  ]);
  return {
    ...facts,
    version: qmp.version,
    status: status.status,
    running: status.running,
    machineType: machine.replace(/-machine$/, ''),
    accelerator: kvm.enabled ? 'kvm' : 'tcg',
    cpu,
    ramBytes: memory['base-memory'] + (memory['plugged-memory'] ?? 0),
    memoryBackends,
    memoryDevices: memoryDevices.map(({ type, data }, index) => ({ id: data.id ?? `#${index}`, kind: type })),
    deviceTypes: countTypes(types),
    devices,
    disks,
    blockNodes: nodes
      .filter((node) => !node['node-name'].startsWith('#'))
      .map((node) => ({ node: node['node-name'], driver: node.drv, file: node.file, readOnly: node.ro })),
    writtenImages: writtenAmong(images, facts.cwd),
    ...netdevs,
    chardevs: chardevs.map(({ label, filename }) => ({ id: label, target: filename })),
  };
}

const CpuList = v.array(v.object({ 'thread-id': v.number(), 'qom-path': v.string() }));
const Status = v.object({ status: v.string(), running: v.boolean() });
const Kvm = v.object({ enabled: v.boolean() });
const MemorySize = v.object({ 'base-memory': v.number(), 'plugged-memory': v.optional(v.number()) });
const MemoryDevices = v.array(v.object({ type: v.string(), data: v.object({ id: v.optional(v.string()) }) }));
const MemoryBackends = v.array(
  v.object({ id: v.optional(v.string()), size: v.number(), share: v.optional(v.boolean(), false) }),
);
const Node = v.object({
  'node-name': v.string(),
  drv: v.string(),
  file: v.string(),
  ro: v.boolean(),
  backing_file: v.optional(v.string()),
  image: v.object({ format: v.string(), 'virtual-size': v.number() }),
});
const NodeList = v.array(Node);
const BlockList = v.array(
  v.object({ device: v.string(), qdev: v.optional(v.string()), inserted: v.optional(Node) }),
);
const ChardevList = v.array(v.object({ label: v.string(), filename: v.string() }));
const FeatureWords = v.array(
  v.object({
    'cpuid-register': v.string(),
    'cpuid-input-eax': v.number(),
    'cpuid-input-ecx': v.optional(v.number()),
    features: v.number(),
  }),
);
/** Block drivers that open a file of the host under its name. */
const FILE_DRIVERS: ReadonlySet<string> = new Set(['file', 'host_device', 'host_cdrom']);
/** The overlay of snapshot=on, whose file is already unlinked. */
const TEMPORARY = /\/vl\.[A-Za-z0-9]{6}"?\}*$/;
const QomProperties = v.array(v.object({ name: v.string(), type: v.string() }));

/** The guest's processors. `features` makes `host` and `max` comparable. */
export async function inspectCpu(qmp: QmpClient): Promise<VmDescription['cpu']> {
  const cpus = await qmp.query(CpuList, 'query-cpus-fast');
  const qomPath = cpus[0]?.['qom-path'] ?? '';
  const [type, words] = await Promise.all([
    typeOf(qmp, qomPath),
    qmp.query(FeatureWords, 'qom-get', { path: qomPath, property: 'feature-words' }).catch(() => []),
  ]);
  const features: Record<string, number> = {};
  for (const word of words) {
    const key = `${word['cpuid-input-eax'].toString(16)}.${word['cpuid-input-ecx'] ?? 0}.${word['cpuid-register']}`;
    features[key] = ((features[key] ?? 0) | word.features) >>> 0;
  }
  return { model: type.replace(/-[^-]+-cpu$/, ''), count: cpus.length, features };
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
  return qmp.query(v.string(), 'qom-get', { path: object, property: 'mem-path' });
}

async function inspectDevices(qmp: QmpClient): Promise<VmDescription['devices']> {
  const [named, anonymous] = await Promise.all(
    GIVEN_FOLDERS.map((folder) => childrenOf(qmp, `/machine/${folder}`)),
  );
  const wasPlugged = (folder: string, name: string) =>
    qmp.query(v.boolean(), 'qom-get', { path: `/machine/${folder}/${name}`, property: 'hotplugged' });
  const pluggedIn = async (folder: string, devices: readonly { name: string; type: string }[]) => {
    const plugged = await Promise.all(devices.map(({ name }) => wasPlugged(folder, name)));
    return devices.filter((_, index) => plugged[index]);
  };
  const [first, second] = GIVEN_FOLDERS;
  return {
    named: named!.map(({ name, type }) => ({ id: name, type })),
    anonymous: anonymous!.map(({ type }) => type),
    plugged: [
      ...(await pluggedIn(first, named!)).map(({ name, type }) => ({ id: name, type })),
      ...(await pluggedIn(second, anonymous!)).map(({ type }) => ({ type })),
    ],
  };
}

/** The guest's disks, and inserted media. */
export async function inspectDisks(qmp: QmpClient): Promise<Disk[]> {
  const block = await qmp.query(BlockList, 'query-block');
  return block.flatMap(({ device, qdev, inserted }) =>
    inserted === undefined ? [] : [describeDisk({ device, owner: qdev }, inserted)],
  );
}

function describeDisk(
  { device, owner }: { readonly device: string; readonly owner: string | undefined },
  node: v.InferOutput<typeof Node>,
): Disk {
  const temporary = isTemporaryImage(node.file);
  const disk = {
    device,
    node: node['node-name'],
    ...(owner !== undefined && { owner }),
    file: node.file,
    format: node.image.format,
    readOnly: node.ro,
    sizeBytes: node.image['virtual-size'],
    temporary,
  };
  return node.backing_file === undefined ? disk : { ...disk, backingFile: node.backing_file };
}

/** QEMU lists an image once for each node that has it open. */
function writtenAmong(images: v.InferOutput<typeof NodeList>, cwd: string | undefined): string[] {
  const places = images.flatMap(({ ro, file }) => (ro ? [] : placeOfName(fromOwnFolder(file))));
  const paths = places.flatMap((place) => (place.kind === 'file' ? place.path : []));
  const known = paths.filter((name) => path.isAbsolute(name) || cwd !== undefined);
  return [...new Set(known.map((name) => path.resolve(cwd ?? '/', name)))];
}

/** The file below a drive with snapshot=on, which QEMU creates and deletes. */
export function isTemporaryImage(file: string): boolean {
  return TEMPORARY.test(file);
}

/**
 * QMP does not list network back-ends; the human monitor does: `net0: index=0,type=user,…`. QEMU makes all back-ends
 * before the cards, and lists them in that order, or with their cards. A back-end without a card that follows a card
 * was added.
 */
async function listNetdevs(qmp: QmpClient): Promise<Pick<VmDescription, 'netdevs' | 'addedNetdevs'>> {
  const text = await qmp.query(v.string(), 'human-monitor-command', { 'command-line': 'info network' });
  const ids = text.matchAll(/^[ \\]*([^:\s]+): index=\d+,type=(?!nic)/gm);
  const firstCard = text.search(/^\S+: index=\d+,type=nic/m);
  const behind = firstCard === -1 ? '' : text.slice(firstCard);
  const added = behind.matchAll(/^([^\s:]+): index=\d+,type=(?!nic|hubport)/gm);
  return {
    netdevs: [...new Set(Array.from(ids, ([, id]) => id!))],
    addedNetdevs: Array.from(added, ([, id]) => id!),
  };
}

/** Where QEMU keeps devices of the command line, and its own. */
const GIVEN_FOLDERS = ['peripheral', 'peripheral-anon'] as const;
const DEVICE_FOLDERS = [...GIVEN_FOLDERS, 'unattached'] as const;

export interface DeviceCounts {
  /** The devices that have an option of their own in the command line. */
  readonly given: Readonly<Record<string, number>>;
  readonly all: Readonly<Record<string, number>>;
}

export async function countDevices(qmp: QmpClient): Promise<DeviceCounts> {
  const [given, all] = await Promise.all([devicesIn(qmp, GIVEN_FOLDERS), devicesIn(qmp, DEVICE_FOLDERS)]);
  return { given: countTypes(given), all: countTypes(all) };
}

/** The types of the devices. */
async function devicesIn(qmp: QmpClient, folders: readonly string[]): Promise<string[]> {
  const lists = await Promise.all(
    folders.map(async (folder) => {
      const children = await childrenOf(qmp, `/machine/${folder}`);
      return children.filter(({ name }) => folder !== 'unattached' || name.startsWith('device['));
    }),
  );
  return lists.flat().map(({ type }) => type);
}

function countTypes(types: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const type of types) counts[type] = (counts[type] ?? 0) + 1;
  return counts;
}

export async function childrenOf(qmp: QmpClient, parent: string): Promise<{ name: string; type: string }[]> {
  const properties = await qmp.query(QomProperties, 'qom-list', { path: parent });
  return properties.flatMap(({ name, type }) => {
    const child = /^child<(.*)>$/.exec(type);
    return child === null ? [] : [{ name, type: child[1]! }];
  });
}

function typeOf(qmp: QmpClient, object: string): Promise<string> {
  return qmp.query(v.string(), 'qom-get', { path: object, property: 'type' });
}
