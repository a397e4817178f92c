/**
 * Names what was added to a running QEMU or removed from it, and that neither its command line nor a restore can
 * provide.
 */
import * as v from 'valibot';
import { isOn, propertiesOf, propertyOf, type Option } from '../command-line.js';
import { givenNodes } from '../given-images.js';
import type { QmpClient } from '../qmp.js';
import { describePart, type Part, type Setting } from './settings.js';

const Bitmaps = v.optional(
  v.array(v.object({ name: v.optional(v.string()), persistent: v.optional(v.boolean(), false) })),
  [],
);
const Nodes = v.array(v.object({ 'node-name': v.string(), 'dirty-bitmaps': Bitmaps }));
const Exports = v.array(v.object({ id: v.string(), type: v.string(), 'node-name': v.string() }));
const FdSets = v.array(
  v.object({ 'fdset-id': v.number(), fds: v.array(v.object({ opaque: v.optional(v.string()) })) }),
);
const Spice = v.object({ auth: v.optional(v.string()) });

/** A change that a restore will not have. */
export interface Loss {
  /** A clause. */
  readonly text: string;
  /** The part that was added, removed or changed, if its settings are known. */
  readonly part?: Part;
}

export interface Subject {
  readonly options: readonly Option[];
  readonly settings: readonly Setting[];
  /** `info network` */
  readonly network: string;
}

export async function findUnaccounted(qmp: QmpClient, subject: Subject): Promise<Loss[]> {
  const [blocks, fdSets, netdevs, capture] = await Promise.all([
    blockParts(qmp),
    addedDescriptors(qmp, subject.options),
    removedNetdevs(qmp, subject),
    human(qmp, 'info capture'),
  ]);
  const sounds = /^\[\d+\]: /m.test(capture) ? ['sound is being captured (wavcapture)'] : [];
  return [
    ...[...blocks, ...fdSets, ...sounds].map((text) => ({ text })),
    ...netdevs,
    ...(saysAll(subject.options) ? changedParts(subject) : []),
  ];
}

/** What a save cannot read. */
export async function findUnreadable(
  qmp: QmpClient,
  options: readonly Option[],
  network: string,
): Promise<string[]> {
  const spice = await qmp.query(Spice, 'query-spice').catch(() => ({ auth: undefined }));
  const found: string[] = [];
  const hasSecret = (option: Option) => propertyOf(option, 'password-secret') !== undefined;
  if (options.some((option) => isOn(propertyOf(option, 'password')) && isVnc(option) && !hasSecret(option)))
    found.push('the password of the VNC display, which is required to connect (set_password)');
  const spiceOption = options.find(({ name }) => name === 'spice');
  const givesPassword =
    spiceOption && (hasSecret(spiceOption) || propertyOf(spiceOption, 'password') !== undefined);
  if (spice.auth === 'spice' && givesPassword !== true) found.push('the password of the SPICE display');
  for (const [, nic, model] of network.matchAll(/^(\S+): index=0,type=nic,model=([^,]+)/gm))
    if (!TELLS_LINK.test(model!)) found.push(`whether the link of ${nic} (${model}) is cut`);
  return found;
}

/** Network cards whose saved state tells whether the link is up. */
const TELLS_LINK = /^(virtio-net|e1000|igb|rtl8139|vmxnet3|pcnet)/;

function isVnc({ name, value = '' }: Option): boolean {
  return name === 'vnc' || (name === 'display' && value.startsWith('vnc'));
}

async function blockParts(qmp: QmpClient): Promise<string[]> {
  const [nodes, exports] = await Promise.all([
    qmp.query(Nodes, 'query-named-block-nodes', { flat: true }),
    qmp.query(Exports, 'query-block-exports').catch(() => []),
  ]);
  const bitmaps = nodes.flatMap((node) =>
    node['dirty-bitmaps']
      .filter(({ name, persistent }) => name !== undefined && !persistent)
      .map(({ name }) => `the dirty bitmap "${name}" of the node ${node['node-name']} is in QEMU only`),
  );
  return [
    ...bitmaps,
    ...exports.map(
      (each) => `the ${each.type} export "${each.id}" of the node ${each['node-name']} is served`,
    ),
  ];
}

async function addedDescriptors(qmp: QmpClient, options: readonly Option[]): Promise<string[]> {
  const given = options.filter(({ name }) => name === 'add-fd').map((option) => propertyOf(option, 'set'));
  const sets = await qmp.query(FdSets, 'query-fdsets');
  // QEMU 7.2 lists a set that an earlier save of a paused VM has removed until the VM runs.
  const isLeft = (fds: (typeof sets)[number]['fds']) =>
    fds.every(({ opaque }) => opaque !== undefined && isOwn(opaque));
  return sets
    .filter((set) => !given.includes(String(set['fdset-id'])) && !isLeft(set.fds))
    .map((set) => `the descriptors of the set ${set['fdset-id']} were handed over (add-fd)`);
}

/** A removed netdev that has a card stays in QEMU's list. A user-mode one is then unknown to hostfwd_remove. */
async function removedNetdevs(qmp: QmpClient, { options, network }: Subject): Promise<Loss[]> {
  const netdevs = options.filter(({ name }) => name === 'netdev');
  const found = netdevs.map(async (option) => {
    const id = propertyOf(option, 'id') ?? '';
    const isListed = network.includes(`${id}: `);
    // No forward from that address can exist, so this command only checks whether the network does.
    const command = `hostfwd_remove ${id} udp:255.255.255.255:1`;
    const isGone =
      isListed &&
      propertyOf(option, 'type') === 'user' &&
      (await human(qmp, command)).includes('unrecognized netdev');
    return isListed && !isGone ? [] : [changed({ kind: 'netdev', id }, 'removed')];
  });
  return (await Promise.all(found)).flat();
}

function human(qmp: QmpClient, command: string): Promise<string> {
  return qmp.query(v.string(), 'human-monitor-command', { 'command-line': command });
}

/** Whether the command line is complete. If it is not, the rest may be in a file (`-readconfig`). */
export function saysAll(options: readonly Option[]): boolean {
  return !options.some(({ name }) => name === 'readconfig');
}

/** Labels of character devices that an option makes without naming them. */
const OWN_LABEL = /^(serial\d+|parallel\d+|compat_monitor\d+|debugcon|virtcon\d+|vc\d*|seri.*|usb.*)$/;

function changedParts({ options, settings }: Subject): Loss[] {
  const now = (kind: string) => settings.filter((each) => each.kind === kind).map(({ id }) => id);
  const given = (name: string) =>
    options.filter((each) => each.name === name).flatMap((each) => propertyOf(each, 'id') ?? []);
  const driveNodes = options.filter(({ name }) => name === 'drive').flatMap((each) => nodeNames(each));
  const nodes = [...givenNodes(options).keys(), ...driveNodes];
  const chardevs = given('chardev').filter((id) => !isOwn(id));
  const isMadeBeside = (label: string) =>
    label === 'gdb' || OWN_LABEL.test(label) || isBase(label, now('chardev'));
  return [
    ...differences(
      'chardev',
      chardevs,
      now('chardev').filter((label) => chardevs.includes(label) || !isMadeBeside(label)),
    ),
    ...(now('chardev').includes('gdb') && !options.some(({ name }) => ['s', 'gdb'].includes(name))
      ? [{ text: 'the debugger was let in (gdbserver)', part: { kind: 'chardev', id: 'gdb' } }]
      : []),
    ...differences(
      'object',
      given('object').filter((id) => !isMemory(options, id)),
      now('object'),
    ),
    ...differences('node', nodes, now('node')),
  ];
}

/** `mux=on` and `-serial mon:…` make a second device, to which the first one passes everything. */
function isBase(label: string, labels: readonly string[]): boolean {
  return label.endsWith('-base') && labels.includes(label.slice(0, -'-base'.length));
}

/** A restore adds its monitors to the command line; a save of a paused VM passes a descriptor to QEMU. */
function isOwn(id: string): boolean {
  return id.startsWith('vmckpt-');
}

function differences(kind: string, given: readonly string[], now: readonly string[]): Loss[] {
  const [before, after] = [new Set(given), new Set(now)];
  return [
    ...[...after].filter((id) => !before.has(id)).map((id) => changed({ kind, id }, 'added')),
    ...[...before].filter((id) => !after.has(id)).map((id) => changed({ kind, id }, 'removed')),
  ];
}

function changed(part: Part, how: 'added' | 'removed'): Loss {
  return { text: `${describePart(part)} was ${how} at run time`, part };
}

function nodeNames(drive: Option): string[] {
  return propertiesOf(drive).flatMap(({ key, value }) => (/(^|\.)node-name$/.test(key) ? [value] : []));
}

function isMemory(options: readonly Option[], id: string): boolean {
  const object = options.find((each) => each.name === 'object' && propertyOf(each, 'id') === id);
  return object !== undefined && /^memory-backend/.test(propertyOf(object, 'qom-type') ?? '');
}
