/**
 * Differences between a running QEMU and its command line: changes made through its monitors. For each, one of three
 * things happens: the command line is rewritten, the setting is set again at the restore, or the difference is
 * reported.
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

/** As in the manifest. */
export interface KeptSetting extends Setting {
  /** The command line does not give this value, so it is set before the VM runs. */
  readonly replay?: boolean;
  /** A restore will have another value, and reports that elsewhere. Stands for all settings of the same part. */
  readonly lost?: boolean;
}

export interface Drift {
  /** A command line that describes the current VM as far as possible. */
  readonly args: readonly string[];
  readonly settings: readonly KeptSetting[];
  /** What a restore will not have, one clause each. */
  readonly lost: readonly string[];
  /** What may belong to the VM, or to whatever program started it. */
  readonly unexplained: readonly string[];
  /** What cannot be read, and so cannot be kept. */
  readonly unreadable: readonly string[];
  /** `info network` */
  readonly network: string;
}

const Thresholds = v.array(v.object({ 'node-name': v.string(), write_threshold: v.number() }));
const Traces = v.array(v.object({ name: v.string(), state: v.string() }));

/** Reads everything and changes nothing. @param traces which events are enabled, if that is known */
export async function findDrift(
  qmp: QmpClient,
  vm: Pick<VmDescription, 'args' | 'cwd' | 'pid' | 'cpu' | 'memoryBackends'>,
  traces?: readonly Setting[],
): Promise<Drift> {
  const human = (command: string) =>
    qmp.query(v.string(), 'human-monitor-command', { 'command-line': command });
  const given = parseCommandLine(vm.args);
  const [settings, others, drives, network, usernet] = await Promise.all([
    readSettings(qmp),
    readOthers(qmp, given, traces),
    qmp.query(v.array(DriveNow), 'query-block'),
    human('info network'),
    human('info usernet'),
  ]);
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

/**
 * The socket to which the serving process of a restored VM connects while memory is loaded, next to vmckpt's monitor.
 */
function ownSockets(options: readonly Option[]): string[] {
  return options.flatMap((option) => {
    const monitor = propertyOf(option, 'id') === OWN_MONITOR ? propertyOf(option, 'path') : undefined;
    return monitor === undefined ? [] : [path.join(path.dirname(monitor), 'migration.sock')];
  });
}

/** Settings that are only read at a save. */
async function readOthers(
  qmp: QmpClient,
  given: readonly Option[],
  enabled: readonly Setting[] | undefined,
): Promise<Setting[]> {
  const [devices, nodes, traces] = await Promise.all([
    readDevices(qmp),
    qmp.query(Thresholds, 'query-named-block-nodes', { flat: true }),
    namesTraces(given) ? readTraces(qmp) : (enabled ?? readEnabledTraces(qmp)),
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

/** A command line that does not enable trace events leaves all of them disabled. */
function namesTraces(given: readonly Option[]): boolean {
  return given.some(({ name, value = '' }) => name === 'trace' || (name === 'd' && value.includes('trace:')));
}

/**
 * There are thousands, and QEMU does nothing else while it lists them: reading a few at a time keeps the guest
 * running.
 */
const PATTERNS = Array.from('abcdefghijklmnopqrstuvwxyz', (letter) => `${letter}*`);

async function readTraces(qmp: QmpClient): Promise<Setting[]> {
  const lists = PATTERNS.map((name) => qmp.query(Traces, 'trace-event-get-state', { name }).catch(() => []));
  const events = (await Promise.all(lists)).flat().filter(({ state }) => state !== 'unavailable');
  return events.map(({ name, state }) => traceSetting(name, state === 'enabled'));
}

/** As text, which takes a fraction of the time. */
async function readEnabledTraces(qmp: QmpClient): Promise<Setting[]> {
  const lists = PATTERNS.map((name) =>
    qmp.query(v.string(), 'human-monitor-command', { 'command-line': `info trace-events ${name}` }),
  );
  const events = (await Promise.all(lists)).join('').matchAll(/^(\S+) : state 1\r?$/gm);
  return Array.from(events, ([, name]) => traceSetting(name!, true));
}

function traceSetting(id: string, isEnabled: boolean): Setting {
  return { kind: 'trace', id, name: 'enabled', value: String(isEnabled) };
}

function withReplay(setting: Setting, options: readonly Option[]): KeptSetting {
  const expected = expectedValue(setting, options);
  return expected === undefined || expected === setting.value ? setting : { ...setting, replay: true };
}

/** Settings of lost parts are known to differ; a restore compares the others. */
function withoutLost(settings: readonly KeptSetting[], losses: readonly Loss[]): KeptSetting[] {
  const parts = new Map(losses.flatMap(({ part }) => (part === undefined ? [] : [[keyOfPart(part), part]])));
  const lost = [...parts.values()].map((part) => ({ ...part, name: 'type', value: 'null', lost: true }));
  return [...settings.filter((setting) => !parts.has(keyOfPart(setting))), ...lost];
}

/** A node with a generated name has another name next time. */
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
  // The machine's own memory, when the command line names none.
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

/** From `-smp` and processors that are devices; undefined when only a topology is given. */
function processorsOf(options: readonly Option[]): number | undefined {
  const smp = options.findLast(({ name }) => name === 'smp');
  const cpus = smp === undefined ? '1' : propertyOf(smp, 'cpus');
  const plugged = options.filter(
    (option) => option.name === 'device' && /-cpu(-core)?$/.test(propertyOf(option, 'driver') ?? ''),
  );
  return cpus === undefined ? undefined : Number(cpus) + plugged.length;
}
