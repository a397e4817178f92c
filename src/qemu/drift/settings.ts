/**
 * Settings of a QEMU that can change while it runs and that a migration stream does not carry, as text that can be kept
 * and compared. One table tells how each kind is read, and how it is set again. Settings that cannot be set again are
 * reported.
 */
import * as v from 'valibot';
import { record } from '../../util/schema.js';
import { childrenOf } from '../inspect.js';
import type { QmpClient } from '../qmp.js';

export interface Setting {
  /** One of SETTINGS; other values come from later versions. */
  readonly kind: string;
  /** The part that has it: an id, a label, a node name. */
  readonly id: string;
  readonly name: string;
  /** JSON. */
  readonly value: string;
}

interface Kind {
  /** For messages: `the object "io0"`. */
  readonly called: string;
  /** Reads them from a running QEMU. Undefined: not compared after a restore. */
  readonly read?: (qmp: QmpClient) => Promise<Setting[]>;
  /** Sets it again. Undefined: cannot be set. */
  readonly apply?: (qmp: QmpClient, setting: Setting) => Promise<unknown>;
  /** Whether QEMU itself shows another value than the one that was set. Undefined: never. */
  readonly isQemus?: (qmp: QmpClient, values: Values) => Promise<boolean>;
}

interface Values {
  readonly wanted: Setting;
  readonly shown: Setting;
}

/** What a restore sets comes from a file, so each kind can do only what its entry says. */
export const SETTINGS: Readonly<Record<string, Kind>> = {
  throttle: { called: 'the drive', read: readThrottles, apply: setThrottle },
  threshold: { called: 'the node', apply: setThreshold },
  object: { called: 'the object', read: readObjects, apply: setObject, isQemus: isObjectsOwn },
  device: { called: 'the device', apply: setDevice },
  trace: { called: 'the trace event', apply: setTrace },
  link: { called: 'the link of', apply: cutLink },
  mouse: { called: 'the mouse', read: readMouse, apply: chooseMouse },
  chardev: { called: 'the character device', read: readChardevs },
  netdev: { called: 'the network back-end', read: readNetdevs },
  node: { called: 'the block node', read: readNodes },
  cpu: { called: 'the processors', read: readCpus },
};

/** Everything that is compared after a restore, queried at the same time. */
export async function readSettings(qmp: QmpClient): Promise<Setting[]> {
  const readers = Object.values(SETTINGS).flatMap(({ read }) => (read === undefined ? [] : [read(qmp)]));
  return (await Promise.all(readers)).flat();
}

export function describeSetting({ kind, id, name }: Setting): string {
  const what = `${SETTINGS[kind]?.called ?? kind} "${id}"`;
  return name === 'type' ? what : `${name} of ${what}`;
}

/** The part that a setting belongs to. It exists with all of its settings, or not at all. */
export type Part = Pick<Setting, 'kind' | 'id'>;

export function keyOfPart({ kind, id }: Part): string {
  return JSON.stringify([kind, id]);
}

export function describePart(part: Part): string {
  return describeSetting({ ...part, name: 'type', value: '' });
}

/** The same for two values of one setting. */
export function keyOf({ kind, id, name }: Setting): string {
  return JSON.stringify([kind, id, name]);
}

const LIMITS = ['bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd', 'iops_wr'] as const;
const LIMIT = /^(bps|iops)(_rd|_wr)?(_max)?(_max_length)?$|^iops_size$/;
const Inserted = v.looseObject({ group: v.optional(v.string()) });
const BlockList = v.array(
  v.object({ device: v.string(), qdev: v.optional(v.string()), inserted: v.optional(Inserted) }),
);

async function readThrottles(qmp: QmpClient): Promise<Setting[]> {
  const drives = await qmp.query(BlockList, 'query-block');
  return drives.flatMap(({ device, qdev, inserted }) => {
    const id = device || qdev;
    if (id === undefined || inserted === undefined) return [];
    const value = throttleText(limitsIn(inserted), inserted.group);
    return [{ kind: 'throttle', id, name: device === '' ? 'qdev' : 'device', value }];
  });
}

/** The limits that are set. A burst of one second is the default. */
function limitsIn(inserted: Readonly<Record<string, unknown>>): Record<string, number> {
  const limits = Object.entries(inserted).filter(
    (entry): entry is [string, number] =>
      LIMIT.test(entry[0]) &&
      typeof entry[1] === 'number' &&
      entry[1] !== (entry[0].endsWith('_length') ? 1 : 0),
  );
  return Object.fromEntries(limits.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Without a limit there is no group. */
export function throttleText(limits: Readonly<Record<string, number>>, group: string | undefined): string {
  const limited = Object.keys(limits).length > 0;
  return JSON.stringify({ ...limits, ...(limited && group !== undefined && { group }) });
}

const Limits = record(v.union([v.number(), v.string()]));

function setThrottle(qmp: QmpClient, { id, name, value }: Setting): Promise<unknown> {
  const limits = v.parse(Limits, JSON.parse(value));
  const known = Object.entries(limits).filter(([key]) => LIMIT.test(key) || key === 'group');
  const none = Object.fromEntries(LIMITS.map((limit) => [limit, 0]));
  const of = name === 'qdev' ? { id } : { device: id };
  return qmp.execute('block_set_io_throttle', { ...of, ...none, ...Object.fromEntries(known) });
}

function setThreshold(qmp: QmpClient, { id, value }: Setting): Promise<unknown> {
  return qmp.execute('block-set-write-threshold', { 'node-name': id, 'write-threshold': Number(value) });
}

const Properties = v.array(v.object({ name: v.string(), type: v.string() }));
/** Objects whose properties are secrets, and those that a restore may change. */
const CLOSED_OBJECTS = /^(secret|tls-|memory-backend|authz|sev-|tdx-)/;
/** Experimental spellings, and properties that name something else. */
const LEFT_OUT = /^(x-|type$|thread-id$)/;

/** Read elsewhere. Since QEMU 11 a monitor of -mon, -qmp or -monitor is an object; its socket is a character device. */
const OTHERS_OBJECTS = /^(memory-backend|monitor-)/;

async function readObjects(qmp: QmpClient): Promise<Setting[]> {
  const objects = await childrenOf(qmp, '/objects');
  const read = objects
    .filter(({ type }) => !OTHERS_OBJECTS.test(type))
    .map(async ({ name: id, type }) => {
      const own: Setting = { kind: 'object', id, name: 'type', value: JSON.stringify(type) };
      if (CLOSED_OBJECTS.test(type)) return [own];
      const properties = await qmp.query(Properties, 'qom-list', { path: `/objects/${id}` });
      const values = properties
        .filter(({ name, type }) => !LEFT_OUT.test(name) && !/^(child|link)</.test(type))
        .map(({ name }) => readProperty(qmp, `/objects/${id}`, { kind: 'object', id, name }));
      return [own, ...(await Promise.all(values)).flat()];
    });
  return (await Promise.all(read)).flat();
}

async function readProperty(
  qmp: QmpClient,
  path: string,
  { kind, id, name }: Omit<Setting, 'value'>,
): Promise<Setting[]> {
  // Some properties cannot be read, or not always.
  const value = await qmp.execute('qom-get', { path, property: name }).catch(() => undefined);
  return value === undefined ? [] : [{ kind, id, name, value: JSON.stringify(value) }];
}

/** The name of a file may differ in a clone. */
async function setObject(qmp: QmpClient, { id, name, value }: Setting): Promise<unknown> {
  if (name === 'type' || value.includes('/') || id.includes('/')) return undefined;
  return qmp.execute('qom-set', {
    path: `/objects/${id}`,
    property: name,
    value: JSON.parse(value) as unknown,
  });
}

/**
 * Versions have different defaults, and show them differently (0, or the effective value). So if QEMU accepts the
 * wanted value, the shown one is equivalent to it. A property that cannot be set at run time is determined by the
 * command line and QEMU's version.
 */
async function isObjectsOwn(qmp: QmpClient, { wanted, shown }: Values): Promise<boolean> {
  const takes = (setting: Setting) =>
    setObject(qmp, setting).then(
      () => true,
      () => false,
    );
  return (await takes(wanted)) || !(await takes(shown));
}

/** Properties of devices that can be set while the VM runs, with their default values. */
export const DEVICE_SETTINGS: Readonly<Record<string, number>> = {
  bootindex: -1,
  'guest-stats-polling-interval': 0,
};

export async function readDevices(qmp: QmpClient): Promise<Setting[]> {
  const folders = ['peripheral', 'peripheral-anon'].map(async (folder) => {
    const devices = await childrenOf(qmp, `/machine/${folder}`);
    const read = devices.flatMap((device) =>
      Object.keys(DEVICE_SETTINGS).map((name) => {
        const id = `${folder}/${device.name}`;
        return readProperty(qmp, `/machine/${id}`, { kind: 'device', id, name });
      }),
    );
    return (await Promise.all(read)).flat();
  });
  return (await Promise.all(folders)).flat();
}

async function setDevice(qmp: QmpClient, { id, name, value }: Setting): Promise<unknown> {
  if (DEVICE_SETTINGS[name] === undefined || !/^peripheral(-anon)?\/[^/]+$/.test(id)) return undefined;
  return qmp.execute('qom-set', { path: `/machine/${id}`, property: name, value: Number(value) });
}

function setTrace(qmp: QmpClient, { id, value }: Setting): Promise<unknown> {
  const enable = value === 'true';
  return qmp.execute('trace-event-set-state', { name: id, enable, 'ignore-unavailable': true });
}

function cutLink(qmp: QmpClient, { id }: Setting): Promise<unknown> {
  return qmp.execute('set_link', { name: id, up: false });
}

const Mice = v.array(v.object({ name: v.string(), index: v.number(), current: v.boolean() }));

async function readMouse(qmp: QmpClient): Promise<Setting[]> {
  const current = (await qmp.query(Mice, 'query-mice')).find((mouse) => mouse.current);
  return current === undefined
    ? []
    : [{ kind: 'mouse', id: 'current', name: 'type', value: JSON.stringify(current.name) }];
}

async function chooseMouse(qmp: QmpClient, { value }: Setting): Promise<unknown> {
  const name = JSON.parse(value) as unknown;
  const mouse = (await qmp.query(Mice, 'query-mice')).find((each) => each.name === name);
  if (mouse === undefined) return undefined;
  return qmp.execute('human-monitor-command', { 'command-line': `mouse_set ${mouse.index}` });
}

const Chardevs = v.array(v.object({ label: v.string() }));

/** Monitors are numbered, and a restore adds its own. */
async function readChardevs(qmp: QmpClient): Promise<Setting[]> {
  const chardevs = await qmp.query(Chardevs, 'query-chardev');
  return chardevs
    .filter(({ label }) => !/^(#|vmckpt-|compat_monitor)/.test(label))
    .map(({ label }) => ({ kind: 'chardev', id: label, name: 'type', value: '""' }));
}

/** Only network back-ends that have names of their own. */
async function readNetdevs(qmp: QmpClient): Promise<Setting[]> {
  const text = await qmp.query(v.string(), 'human-monitor-command', { 'command-line': 'info network' });
  return Array.from(
    text.matchAll(/(?:^|[ \\])([^#:\s\\][^:\s]*): index=0,type=(?!nic)([a-z-]+)/gm),
    ([, id, type]) => ({
      kind: 'netdev',
      id: id!,
      name: 'type',
      value: JSON.stringify(type),
    }),
  );
}

const Nodes = v.array(v.object({ 'node-name': v.string(), drv: v.string(), ro: v.boolean() }));

async function readNodes(qmp: QmpClient): Promise<Setting[]> {
  const nodes = await qmp.query(Nodes, 'query-named-block-nodes', { flat: true });
  return nodes
    .filter((node) => !node['node-name'].startsWith('#'))
    .flatMap((node): Setting[] => [
      { kind: 'node', id: node['node-name'], name: 'type', value: JSON.stringify(node.drv) },
      { kind: 'node', id: node['node-name'], name: 'read-only', value: String(node.ro) },
    ]);
}

async function readCpus(qmp: QmpClient): Promise<Setting[]> {
  const cpus = await qmp.query(v.array(v.unknown()), 'query-cpus-fast');
  return [{ kind: 'cpu', id: 'guest', name: 'number', value: String(cpus.length) }];
}
