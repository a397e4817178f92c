/**
 * Rewrites the command line of the saved VM for its restore. Only what must change is changed; the rest keeps its
 * text and order, so that the guest sees the same devices in the same places.
 */
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import { runtimeDir } from '../util/runtime-dir.js';
import { characterDeviceOf, type CharacterDevice } from './character-device.js';
import { type Option, parseCommandLine, propertyOf, toArgv, withProperties } from './command-line.js';
import { namedFiles } from './named-files.js';
import { OWN_FOLDER } from './own-identity.js';
import { appendToFiles } from './written-files.js';

/** Character devices with such ids are vmckpt's own. The next restore of the VM leaves them out. */
const OWN_ID_PREFIX = 'vmckpt-';
export const OWN_MONITOR = `${OWN_ID_PREFIX}monitor`;

/** Options that belong to one run of QEMU, not to the machine. */
export const RUN_ONLY_OPTIONS: ReadonlySet<string> = new Set([
  'incoming',
  'loadvm',
  'daemonize',
  'preconfig',
  'S',
]);

export function withoutRunOnly(argv: readonly string[]): string[] {
  return toArgv(parseCommandLine(argv).filter(({ name }) => !RUN_ONLY_OPTIONS.has(name)));
}

/** In the new process these lead to its log. */
const OF_THE_PROCESS = /^\/dev\/(stdout|stderr)$/;

export interface RestoreCommandLineOptions {
  /** vmckpt's own monitor, with out-of-band commands. */
  readonly monitorSocket: string;
  /** The new place of a console that was on QEMU's terminal. */
  readonly consoleSocket: string;
  /** Start with `-S`: the VM waits for `cont` once it is loaded. */
  readonly paused: boolean;
  /** The machine type as the saver resolved it (`pc-q35-7.2`), so that an alias does not move with QEMU's version. */
  readonly machineType?: string | undefined;
}

export interface RestoreCommandLine {
  /** Without the program's own name. */
  readonly args: readonly string[];
  /** Set when the console moved there. */
  readonly consoleSocket?: string;
  /** The user's own QMP socket, unchanged. */
  readonly userQmpSocket?: string;
  /** Changes that the user should know about, one sentence each. */
  readonly notes: readonly string[];
}

/**
 * unrepeatable.ts handles what cannot be repeated at all. @throws VmckptError COMMAND_LINE_UNSUPPORTED when it cannot
 * be parsed
 */
export function rewriteForRestore(
  argv: readonly string[],
  options: RestoreCommandLineOptions,
): RestoreCommandLine {
  const notes: string[] = [];
  const given = parseCommandLine(argv);
  for (const { option, name } of namedFiles(given))
    if (OF_THE_PROCESS.test(name)) notes.push(`${option} now goes to QEMU's log: vmckpt logs shows it.`);
  const kept = given.filter((option) => !RUN_ONLY_OPTIONS.has(option.name) && !isOwn(option));
  const console = new ConsoleMove(options.consoleSocket, notes);
  const rewritten = appendToFiles(
    kept.map((option) => renewGenerationId(listenWithoutWaiting(console.rewrite(option), notes))),
  );
  rewritten.push(...console.replaceNographicDefaults(rewritten));
  const pinned =
    options.machineType === undefined ? rewritten : pinMachineType(rewritten, options.machineType);
  const monitor = `socket,id=${OWN_MONITOR},path=${escapeCommas(options.monitorSocket)},server=on,wait=off`;
  const added: Option[] = [
    { name: 'chardev', value: monitor },
    { name: 'mon', value: `chardev=${OWN_MONITOR},mode=control` },
    { name: 'incoming', value: 'defer' },
    ...(options.paused ? [{ name: 'S' }] : []),
  ];
  const userQmpSocket = findQmpSocket(kept);
  return {
    args: toArgv([...pinned, ...added]),
    notes,
    ...(console.moved && { consoleSocket: options.consoleSocket }),
    ...(userQmpSocket !== undefined && { userQmpSocket }),
  };
}

/** Added by an earlier restore, when the saved VM was itself a restored one. */
function isOwn(option: Option): boolean {
  const id =
    option.name === 'chardev'
      ? propertyOf(option, 'id')
      : option.name === 'mon' && propertyOf(option, 'chardev');
  return typeof id === 'string' && id.startsWith(OWN_ID_PREFIX);
}

/**
 * Moves whatever is on QEMU's terminal to a unix socket. Only one part can use the terminal, so one socket is enough.
 */
class ConsoleMove {
  moved = false;
  readonly #socket: string;
  readonly #notes: string[];

  constructor(socket: string, notes: string[]) {
    this.#socket = socket;
    this.#notes = notes;
  }

  rewrite(option: Option): Option {
    if (isCurses(option)) {
      this.#notes.push('The curses display needs a terminal: it was replaced by -display none.');
      return { name: 'display', value: 'none' };
    }
    const device = characterDeviceOf(option);
    if (device?.backend === 'pty')
      this.#notes.push(`-${option.name} ${option.value} gets a new terminal; QEMU's log names it.`);
    if (device === undefined) return option;
    const isEarlier = this.#isEarlierConsole(device);
    if (device.backend !== 'stdio' && !isEarlier) return option;
    const what = `-${option.name} ${option.value}`;
    if (!isEarlier) this.#leaveTerminal(what);
    else if (device.path !== this.#socket)
      this.#notes.push(`${what} is now the unix socket ${this.#socket}.`);
    this.moved = true;
    if (option.name !== 'chardev') return { name: option.name, value: this.#address(device.withMonitor) };
    return withProperties(option, {
      backend: 'socket',
      signal: undefined,
      path: this.#socket,
      server: 'on',
      wait: 'off',
    });
  }

  /** -nographic puts the first serial port and the monitor on the terminal unless they are somewhere else. */
  replaceNographicDefaults(options: readonly Option[]): Option[] {
    const has = (...names: string[]): boolean => options.some(({ name }) => names.includes(name));
    if (!has('nographic') || has('nodefaults')) return [];
    const ownSerialDevice = options.some(
      (option) => option.name === 'device' && propertyOf(option, 'driver') === 'isa-serial',
    );
    const defaultMonitor = !has('monitor', 'mon', 'qmp', 'qmp-pretty');
    if (!has('serial') && !ownSerialDevice) {
      this.#leaveTerminal('The console of -nographic');
      return [{ name: 'serial', value: this.#address(defaultMonitor) }];
    }
    if (!defaultMonitor) return [];
    this.#leaveTerminal('The monitor of -nographic');
    return [{ name: 'monitor', value: this.#address(false) }];
  }

  /** Whether an earlier restore put the console of this VM there. */
  #isEarlierConsole({ path: file, server }: CharacterDevice): boolean {
    if (!server || file === undefined || path.basename(file) !== path.basename(this.#socket)) return false;
    // A socket of the user's own with the same name.
    if (path.basename(path.dirname(file)) === OWN_FOLDER) return false;
    return file.startsWith(`${runtimeDir()}/`) || /\/vmckpt(-\d+)?\//.test(file);
  }

  #leaveTerminal(what: string): void {
    this.moved = true;
    this.#notes.push(`${what} is no longer on a terminal: it is now the unix socket ${this.#socket}.`);
  }

  #address(withMonitor: boolean): string {
    return `${withMonitor ? 'mon:' : ''}unix:${escapeCommas(this.#socket)},server=on,wait=off`;
  }
}

function isCurses(option: Option): boolean {
  return option.name === 'curses' || (option.name === 'display' && propertyOf(option, 'type') === 'curses');
}

/** By default, QEMU would not start until a client connects to a listening socket. */
function listenWithoutWaiting(option: Option, notes: string[]): Option {
  if (characterDeviceOf(option)?.waits !== true) return option;
  notes.push(
    `-${option.name} ${option.value} would wait for a client before the VM starts: it got wait=off.`,
  );
  if (option.name === 'chardev') return withProperties(option, { wait: 'off' });
  const withoutWait = option.value!.replace(/,(wait|nowait)(=[a-z]+)?(?=,|$)/g, '');
  return { name: option.name, value: `${withoutWait},wait=off` };
}

/** Tells the guest by a new id that it was restored, so that it gathers fresh randomness. */
function renewGenerationId(option: Option): Option {
  const isGenerationId = option.name === 'device' && propertyOf(option, 'driver') === 'vmgenid';
  return isGenerationId ? withProperties(option, { guid: randomUUID() }) : option;
}

function pinMachineType(options: readonly Option[], type: string): Option[] {
  const isMachine = ({ name }: Option): boolean => name === 'machine' || name === 'M';
  const at = options.findLastIndex((option) => isMachine(option) && propertyOf(option, 'type') !== undefined);
  if (at === -1) return [...options, { name: 'machine', value: `type=${type}` }];
  if (!standsFor(propertyOf(options[at]!, 'type')!, type)) return [...options];
  return options.with(at, withProperties(options[at]!, { type }));
}

/**
 * Whether a given type is an alias (`q35`) of the resolved one (`pc-q35-7.2`). The comparison with QEMU finds other
 * machines.
 */
function standsFor(written: string, type: string): boolean {
  const board = type.replace(/-[^-]+$/, '');
  return written === board || `pc-${written}` === board || (written === 'pc' && board === 'pc-i440fx');
}

function findQmpSocket(options: readonly Option[]): string | undefined {
  const control = options.filter(
    (option) => option.name === 'mon' && propertyOf(option, 'mode') === 'control',
  );
  const ids = new Set(control.map((option) => propertyOf(option, 'chardev')));
  for (const option of options) {
    const device = characterDeviceOf(option);
    const isQmp = option.name.startsWith('qmp') || (device?.id !== undefined && ids.has(device.id));
    if (isQmp && device?.server === true && device.path !== undefined) return device.path;
  }
  return undefined;
}

function escapeCommas(file: string): string {
  return file.replaceAll(',', ',,');
}
