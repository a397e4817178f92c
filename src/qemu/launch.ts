/**
 * Starts QEMU in a session of its own, with its output in a log file, and connects to its monitor as soon as it
 * listens. The binary is always a QEMU of this host: found on PATH, named by the user, or trusted.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readSync,
  realpathSync,
  fstatSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { nowMs } from '../timeline/clock.js';
import { debug, elidedCommand } from '../util/debug.js';
import { poll } from '../util/deadline.js';
import { parseCommandLine } from './command-line.js';
import { codeOfQemuMessage, explainQemuMessage, withoutWarnings } from './qemu-messages.js';
import { QmpClient } from './qmp.js';
import { startedAs, type User } from './start-as.js';

const DEFAULT_BINARY = 'qemu-system-x86_64';
const EMULATOR_NAME = /^(qemu-system-[\w.-]+|qemu-kvm|kvm)$/;
const START_TIMEOUT_MS = 30_000;
const LOG_TAIL_BYTES = 4096;

/** What to run, and where its output goes. */
export interface StartOptions {
  /** As `findQemuBinary` returns it. */
  readonly binary: string;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly logPath: string;
  /** Descriptors for the new process, from 3 on. */
  readonly inheritedFds?: readonly number[];
}

export interface StartedProcess {
  readonly pid: number;
  /** Never rejects. */
  readonly exited: Promise<ProcessEnd>;
  readonly kill: () => void;
}

export interface LaunchOptions {
  /** As `findQemuBinary` returns it. */
  readonly binary: string;
  readonly args: readonly string[];
  /** The folder from which relative paths in `args` are resolved; default: this process's own folder. */
  readonly cwd?: string | undefined;
  readonly logPath: string;
  /** The unix socket of the monitor that `args` contain. */
  readonly qmpSocket: string;
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number;
  readonly inheritedFds?: readonly number[];
  /** The user as whom it runs; default: this process's user. */
  readonly user?: User | undefined;
  /** Starts the process; default: this process does. */
  readonly start?: (options: StartOptions) => Promise<StartedProcess>;
}

export interface ProcessEnd {
  readonly exitCode: number | null;
  readonly killedBy: NodeJS.Signals | null;
}

export interface LaunchedQemu {
  readonly pid: number;
  /** The wall clock right before the spawn, in milliseconds since 1970: comparable to event timestamps. */
  readonly spawnedAtMs: number;
  /** From the spawn until QMP has answered. */
  readonly qemuReadyMs: number;
  /** Accepts out-of-band commands. */
  readonly qmp: QmpClient;
  /** How the process ended; never rejects. Does not keep Node alive. */
  readonly exited: Promise<ProcessEnd>;
}

/**
 * On failure the process is gone.
 * @throws VmckptError QEMU_FAILED_TO_START with the end of QEMU's output, QEMU_INCOMPATIBLE or NOT_PERMITTED when the
 *   output shows that, TIMEOUT, or the signal's reason
 */
export async function launchQemu(options: LaunchOptions): Promise<LaunchedQemu> {
  const { qmpSocket, signal, logPath, user, cwd = process.cwd() } = options;
  const { timeoutMs = START_TIMEOUT_MS, start = startDetached, inheritedFds = [] } = options;
  signal?.throwIfAborted();
  requireDirectory(cwd);
  const program =
    user === undefined ? { binary: options.binary, args: options.args } : startedAs(options, user);
  debug('launch', () => `QEMU: ${elidedCommand([program.binary, ...program.args])}`);
  const spawnedAtMs = nowMs();
  const { pid, exited, kill } = await start({ ...program, cwd, logPath, inheritedFds });
  let end: ProcessEnd | undefined;
  void exited.then((value) => (end = value));
  const connect = async (): Promise<QmpClient | undefined> => {
    if (end !== undefined) throw failedToStart(options, end);
    // Much cheaper than a refused connection, on a processor that QEMU needs.
    if (!existsSync(qmpSocket)) return undefined;
    try {
      const qmp = await QmpClient.connect({ path: qmpSocket, oob: true, signal, timeoutMs });
      if (qmp.peerPid() === pid) return qmp;
      // Another process still listens at that path; QEMU will replace the socket by its own.
      await qmp.close();
      return undefined;
    } catch (error) {
      // Not listening yet, or dying: the next attempt will tell.
      if (isCode(error, 'QMP_UNREACHABLE') || isCode(error, 'QMP_CLOSED')) return undefined;
      throw error;
    }
  };
  try {
    const qmp = await poll(connect, { what: 'QEMU to answer QMP', timeoutMs, signal, everyMs: 1 });
    return { pid, spawnedAtMs, qemuReadyMs: nowMs() - spawnedAtMs, qmp, exited };
  } catch (error) {
    kill();
    if (isCode(error, 'TIMEOUT') || isCode(error, 'QMP_BUSY')) throw unanswered(options, timeoutMs, error);
    throw error;
  }
}

export interface QemuSought {
  /** What the user named: a name or a path. */
  readonly chosen?: string | undefined;
  /** argv[0] of the saved QEMU: only its last component counts. */
  readonly recorded?: string | undefined;
  /** The path of the saved QEMU. */
  readonly ran?: string | undefined;
  /** Whether that path may be run. Not called if it is the one on PATH. */
  readonly isTrusted?: () => boolean;
}

/**
 * The emulator to run: the user's choice; otherwise the saved path, if it is trusted; otherwise the program on PATH
 * with the same name; otherwise the default.
 * @throws VmckptError QEMU_NOT_FOUND
 */
export function findQemuBinary({ chosen, recorded, ran, isTrusted = () => false }: QemuSought = {}): string {
  if (chosen !== undefined) return findOnPath(chosen) ?? notFound(chosen);
  const name = path.basename(recorded ?? DEFAULT_BINARY);
  const candidates = isEmulatorName(name) ? [name, DEFAULT_BINARY] : [DEFAULT_BINARY];
  const onPath = candidates.map(findOnPath).find((found) => found !== undefined);
  if (ran !== undefined && isOtherProgram(ran, onPath) && isTrusted()) return ran;
  return onPath ?? notFound([...new Set(candidates)].join(' or '));
}

function isOtherProgram(ran: string, onPath: string | undefined): boolean {
  if (!path.isAbsolute(ran) || !isEmulatorName(path.basename(ran)) || findOnPath(ran) === undefined)
    return false;
  return onPath === undefined || realpathSync(onPath) !== ran;
}

/** Whether a program of that name is a QEMU system emulator. */
export function isEmulatorName(name: string): boolean {
  return EMULATOR_NAME.test(name);
}

/** The last whole lines of a log. @returns '' when there is no such file */
export function readLogTail(logPath: string): string {
  let fd: number;
  try {
    fd = openSync(logPath, 'r');
  } catch {
    return '';
  }
  try {
    const { size } = fstatSync(fd);
    const start = Math.max(0, size - LOG_TAIL_BYTES);
    const buffer = Buffer.alloc(size - start);
    const text = buffer.toString('utf8', 0, readSync(fd, buffer, 0, buffer.length, start));
    return (start === 0 ? text : text.slice(text.indexOf('\n') + 1)).trim();
  } finally {
    closeSync(fd);
  }
}

function requireDirectory(cwd: string): void {
  if (isDirectory(cwd)) return;
  const hint = 'Create it, or give a command line with absolute paths: vmckpt restore NAME -- QEMU ARGS…';
  throw new VmckptError('QEMU_FAILED_TO_START', `the folder that QEMU ran in, ${cwd}, does not exist`, {
    hint,
  });
}

/** Starts it in a session of its own, as a child of this process. @throws VmckptError QEMU_FAILED_TO_START */
export async function startDetached({
  binary,
  args,
  cwd,
  logPath,
  inheritedFds = [],
}: StartOptions): Promise<StartedProcess> {
  const log = openSync(logPath, 'a', 0o600);
  try {
    const child = spawn(binary, args, { cwd, detached: true, stdio: ['ignore', log, log, ...inheritedFds] });
    const exited = new Promise<ProcessEnd>((resolve) => {
      child.once('exit', (exitCode, killedBy) => resolve({ exitCode, killedBy }));
    });
    await once(child, 'spawn');
    child.unref();
    return { pid: child.pid!, exited, kill: () => child.kill('SIGKILL') };
  } catch (cause) {
    throw new VmckptError('QEMU_FAILED_TO_START', `${binary} could not be run: ${(cause as Error).message}`, {
      cause,
    });
  } finally {
    closeSync(log);
  }
}

function failedToStart({ logPath, args }: LaunchOptions, { exitCode, killedBy }: ProcessEnd): VmckptError {
  const words = readLogTail(logPath);
  const how = killedBy === null ? `ended with exit code ${exitCode}` : `was killed by ${killedBy}`;
  const code = codeOfQemuMessage(words) ?? 'QEMU_FAILED_TO_START';
  const hint = explainQemuMessage(words) ?? hintOn(words);
  return new VmckptError(code, `QEMU ${how} before it answered QMP, ${said(words)}${namedBy(args, words)}`, {
    hint,
  });
}

/** The options that contain what QEMU quotes in its message, if the message does not name them. */
function namedBy(args: readonly string[], words: string): string {
  const quoted = Array.from(words.matchAll(/'([^'\n]+)'|"([^"\n]+)"/g), ([, one, other]) => one ?? other!);
  const found = parseCommandLine(args)
    .filter(({ value }) => value !== undefined && quoted.some((text) => value.includes(text)))
    .map(({ name, value }) => `-${name} ${value}`)
    .filter((option) => !words.includes(option));
  return found.length === 0 ? '' : ` (it is in ${found.join(', ')})`;
}

function unanswered({ logPath }: LaunchOptions, timeoutMs: number, cause: unknown): VmckptError {
  const words = readLogTail(logPath);
  const message = `QEMU has not answered QMP for ${timeoutMs} ms, ${said(words)}`;
  return new VmckptError('TIMEOUT', message, { hint: hintOn(words), cause });
}

/** Empty also when the log was deleted with its folder. */
function said(words: string): string {
  return words === '' ? 'and said nothing' : `and said: ${withoutWarnings(words) || words}`;
}

function hintOn(words: string): string | undefined {
  if (words !== '') return undefined;
  return 'Make sure that the program is a QEMU (see its --version), or name another one with --qemu.';
}

function findOnPath(name: string): string | undefined {
  if (name.includes('/')) return isExecutable(name) ? path.resolve(name) : undefined;
  const directories = (process.env['PATH'] ?? '')
    .split(':')
    .filter((directory) => path.isAbsolute(directory));
  return directories.map((directory) => path.join(directory, name)).find(isExecutable);
}

function notFound(name: string): never {
  throw new VmckptError('QEMU_NOT_FOUND', name.includes('/') ? whyNotRun(name) : `no ${name} on PATH`, {
    hint: 'Install QEMU (Debian and Ubuntu: apt install qemu-system-x86), or name the emulator to use.',
  });
}

function whyNotRun(file: string): string {
  if (isDirectory(file)) return `${file} is a folder, expected a QEMU binary`;
  return existsSync(file) ? `${file} is not an executable file` : `${file} does not exist`;
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

function isDirectory(file: string): boolean {
  return existsSync(file) && statSync(file).isDirectory();
}

function isCode(error: unknown, code: VmckptError['code']): boolean {
  return error instanceof VmckptError && error.code === code;
}
