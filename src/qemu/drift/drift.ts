/**
 * What a QEMU is now and its command line does not say: changes made through its monitors. Each has the best of three ways
 * out: the command line is rewritten to what is now, the setting is set again at the restore, or it is named.
 */
import path from 'node:path';
import * as v from 'valibot';
import { parseCommandLine, propertyOf, toArgv, type Option } from '../command-line.js';
import type { VmDescription } from '../inspect.js';
import type { QmpClient } from '../qmp.js';
import { OWN_MONITOR } from '../restore-command-line.js';
import { expectedValue } from './expected.js';
import { unexplainedListeners } from './listeners.js';
import { withForwards } from './forwards.js';
import { DriveNow, withMedia } from './media.js';
import { withAddedObjects, withoutRemoved } from './rewriting.js';
import { findReplaced } from './replaced.js';
import { keyOfPart, readDevices, readSettings, SETTINGS, type Setting } from './settings.js';
import { findUnaccounted, findUnreadable, saysAll, type Loss } from './unaccounted.js';

/** As a manifest keeps it. */
export interface KeptSetting extends Setting {
  /** The command line does not give it: it is set before the VM runs. */
  readonly replay?: boolean;
  /** A restore has it otherwise, and is told so elsewhere: stands for all settings of its part. */
  readonly lost?: boolean;
}

export interface Drift {
  /** A command line that gives the VM as it is now, as far as one can. */
  readonly args: readonly string[];
  readonly settings: readonly KeptSetting[];
  /** What a restore will not have, a sentence without its end for each. */
  readonly lost: readonly string[];
  /** What may be a part of the VM, or of whoever has started it. */
  readonly unexplained: readonly string[];
  /** What cannot be read, and so not be kept. */
  readonly unreadable: readonly string[];
  /** `info network` */
  readonly network: string;
}

const Thresholds = v.array(v.object({ 'node-name': v.string(), write_threshold: v.number() }));
const Traces = v.array(v.object({ name: v.string(), state: v.string() }));

/** Looks at everything and changes nothing. */
export async function findDrift(
  qmp: QmpClient,
  vm: Pick<VmDescription, 'args' | 'cwd' | 'pid' | 'cpu' | 'memoryBackends'>,
): Promise<Drift> {
  const human = (command: string) =>
    qmp.query(v.string(), 'human-monitor-command', { 'command-line': command });
  const [settings, others, drives, network, usernet] = await Promise.all([
    readSettings(qmp),
    readOthers(qmp),
    qmp.query(v.array(DriveNow), 'query-block'),
    human('info network'),
    human('info usernet'),
  ]);
  const given = parseCommandLine(vm.args);
  const forwarded = withForwards(given, usernet);
  const options = withAddedObjects(
    withoutRemoved(withMedia(forwarded, drives, vm.cwd ?? '/'), settings),
    settings,
  );
  const args = toArgv(options);
  const subject = { options, settings, network };
  const [unaccounted, unreadable] = await Promise.all([
    findUnaccounted(qmp, subject),
    findUnreadable(qmp, options, network),
  ]);
  const replaced = await findReplaced(qmp, { ...subject, cwd: vm.cwd ?? '/' });
  const kept = [...settings, ...others].map((setting) => withReplay(setting, options));
  const changed = kept.filter(({ kind, replay }) => SETTINGS[kind]?.read !== undefined || replay);
  const losses = [...unaccounted, ...replaced, ...otherLosses(vm, options, changed)];
  return {
    args,
    settings: withoutLost(changed.filter(isRepeatable), losses),
    lost: losses.map(({ text }) => text),
    unexplained: unexplainedListeners(vm.pid, [...args, ...ownSockets(options)]).map(
      (where) => `QEMU listens at ${where}`,
    ),
    unreadable,
    network,
  };
}

/** Where the serving process of a restored VM connects to while memory is loaded: beside vmckpt's monitor. */
function ownSockets(options: readonly Option[]): string[] {
  return options.flatMap((option) => {
    const monitor = propertyOf(option, 'id') === OWN_MONITOR ? propertyOf(option, 'path') : undefined;
    return monitor === undefined ? [] : [path.join(path.dirname(monitor), 'migration.sock')];
  });
}

/** What is only worth a question at a save. */
async function readOthers(qmp: QmpClient): Promise<Setting[]> {
  const [devices, nodes, traces] = await Promise.all([
    readDevices(qmp),
    qmp.query(Thresholds, 'query-named-block-nodes', { flat: true }),
    readTraces(qmp),
  ]);
  return [
    ...devices,
    ...nodes
      .filter((node) => node.write_threshold > 0)
      .map((node) => ({
        kind: 'threshold',
        id: node['node-name'],
        name: 'write-threshold',
        value: String(node.write_threshold),
      })),
    ...traces,
  ];
}

/** There are thousands, and QEMU does nothing else while it lists them: some at a time, so that no guest notices. */
async function readTraces(qmp: QmpClient): Promise<Setting[]> {
  const lists = Array.from('abcdefghijklmnopqrstuvwxyz', (letter) =>
    qmp.query(Traces, 'trace-event-get-state', { name: `${letter}*` }).catch(() => []),
  );
  const events = (await Promise.all(lists)).flat().filter(({ state }) => state !== 'unavailable');
  return events.map(({ name, state }) => ({
    kind: 'trace',
    id: name,
    name: 'enabled',
    value: String(state === 'enabled'),
  }));
}

function withReplay(setting: Setting, options: readonly Option[]): KeptSetting {
  const expected = expectedValue(setting, options);
  return expected === undefined || expected === setting.value ? setting : { ...setting, replay: true };
}

/** What is lost is known to differ: a restore compares the rest. */
function withoutLost(settings: readonly KeptSetting[], losses: readonly Loss[]): KeptSetting[] {
  const parts = new Map(losses.flatMap(({ part }) => (part === undefined ? [] : [[keyOfPart(part), part]])));
  const lost = [...parts.values()].map((part) => ({ ...part, name: 'type', value: 'null', lost: true }));
  return [...settings.filter((setting) => !parts.has(keyOfPart(setting))), ...lost];
}

/** A node whose name QEMU makes up has another one next time. */
function isRepeatable({ kind, id }: Setting): boolean {
  return kind !== 'threshold' || !id.startsWith('#');
}

function otherLosses(
  { cpu, memoryBackends }: Pick<VmDescription, 'cpu' | 'memoryBackends'>,
  options: readonly Option[],
  settings: readonly Setting[],
): Loss[] {
  const thresholds = settings.filter((setting) => !isRepeatable(setting));
  const named = thresholds.map(({ id }) => ({
    text: `the write threshold of the unnamed node ${id} is set`,
  }));
  if (!saysAll(options)) return named;
  const processors = processorsOf(options);
  const objects = options.filter(({ name }) => name === 'object').map((option) => propertyOf(option, 'id'));
  // The machine's own, when the command line names none.
  const isOwnMemory = (id: string) => /(^|[.-])ram(-node\d+)?$/.test(id) || /^ram-node\d+$/.test(id);
  const memories = memoryBackends.filter(({ id }) => !objects.includes(id) && !isOwnMemory(id));
  const count = `there are ${cpu.count} processors now, and ${processors} in the command line`;
  return [
    ...named,
    ...(processors !== undefined && processors !== cpu.count
      ? [{ text: count, part: { kind: 'cpu', id: 'guest' } }]
      : []),
    ...memories.map(({ id }) => ({ text: `the memory "${id}" was added at run time` })),
  ];
}

/** `-smp` and processors that are devices; undefined where the topology alone says it. */
function processorsOf(options: readonly Option[]): number | undefined {
  const smp = options.findLast(({ name }) => name === 'smp');
  const cpus = smp === undefined ? '1' : propertyOf(smp, 'cpus');
  const plugged = options.filter(
    (option) => option.name === 'device' && /-cpu(-core)?$/.test(propertyOf(option, 'driver') ?? ''),
  );
  return cpus === undefined ? undefined : Number(cpus) + plugged.length;
}
