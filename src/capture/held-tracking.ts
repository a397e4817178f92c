/**
 * Write tracking that goes on between two saves: a small process keeps the userfaultfd (native/core/holder.h says why, and
 * what is said to it).
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import {
  connectUnix,
  makeSocketPair,
  peerCredentials,
  receiveFds,
  sendFds,
  TRACKER_PATH,
} from '../native/index.js';
import { identifyProcess, isStopped, untilEnded } from '../util/process-identity.js';

const TIMEOUT_MS = 5_000;
/** Its own limit. */
const MAX_LINE_BYTES = 16_384;
const MAX_NOTE_BYTES = 16_000;

export interface HoldOptions {
  /** Of the tracked process, with which it ends. */
  readonly pid: number;
  /** Of an armed tracker; a duplicate is kept. */
  readonly userfaultfd: number;
  /** Where it is found, and where nothing listens yet: absolute, at most 107 bytes. */
  readonly socketPath: string;
}

/** A process that has kept a tracking, did not answer, and was ended. */
export interface EndedHolder {
  readonly endedPid: number;
}

/**
 * The process that keeps a tracking, as this process has it. If it is in use, the tracking ends with `close()`, or with
 * this process, unless `keep()` has been called.
 */
export class HeldTracking {
  readonly #socket: number;
  readonly #socketPath: string;

  private constructor(
    { socket, socketPath }: { readonly socket: number; readonly socketPath: string },
    /** What the last save has noted of it; empty if it has not ended yet. */
    readonly note: string,
    /** Of the process that keeps it. */
    readonly pid: number,
  ) {
    this.#socket = socket;
    this.#socketPath = socketPath;
  }

  /** In use. What goes wrong is told by `keep()`. */
  static begin({ pid, userfaultfd, socketPath }: HoldOptions): HeldTracking {
    const [ours, theirs] = makeSocketPair();
    rmSync(socketPath, { force: true });
    const child = spawn(TRACKER_PATH, ['--hold', `${pid}`, socketPath], {
      detached: true,
      stdio: ['ignore', 'ignore', 'ignore', userfaultfd, theirs],
    });
    closeSync(theirs);
    child.on('error', () => undefined); // told by the end of the connection
    child.unref();
    return new HeldTracking({ socket: ours, socketPath }, '', child.pid ?? 0);
  }

  /** @returns undefined where nothing is held. @throws VmckptError FAILED if its process is stopped, or does not answer */
  static async find(socketPath: string, { timeoutMs = TIMEOUT_MS } = {}): Promise<HeldTracking | undefined> {
    const socket = connect(socketPath);
    if (socket === undefined) return undefined;
    try {
      const { pid } = peerCredentials(socket);
      if (isStopped(pid)) throw lost();
      const { text } = await answer(socket, timeoutMs);
      return new HeldTracking({ socket, socketPath }, text, pid);
    } catch (error) {
      closeSync(socket);
      throw error;
    }
  }

  /** As find(), and ends a process that does not answer. The socket of one that has ended is removed. */
  static async findOrEnd(
    socketPath: string,
    { timeoutMs = TIMEOUT_MS } = {},
  ): Promise<HeldTracking | EndedHolder | undefined> {
    let endedPid: number | undefined;
    try {
      const held = await HeldTracking.find(socketPath, { timeoutMs });
      if (held !== undefined) return held;
    } catch {
      endedPid = HeldTracking.holderAt(socketPath);
      if (endedPid !== undefined) await endProcess(endedPid);
    }
    rmSync(socketPath, { force: true });
    return endedPid === undefined ? undefined : { endedPid };
  }

  /** The process that listens there, even if it does not answer. */
  static holderAt(socketPath: string): number | undefined {
    const socket = connect(socketPath);
    if (socket === undefined) return undefined;
    const { pid } = peerCredentials(socket);
    closeSync(socket);
    return pid;
  }

  /** @returns its userfaultfd. The tracking is in use from now on. @throws VmckptError FAILED */
  async take(): Promise<number> {
    const { fd } = await this.#ask('take');
    if (fd === undefined) throw lost();
    return fd;
  }

  /** It goes on, with this note, of one line. @throws VmckptError FAILED */
  async keep(note: string): Promise<void> {
    if (Buffer.byteLength(note) > MAX_NOTE_BYTES)
      throw new VmckptError('FAILED', 'the VM has more RAM blocks than can be noted');
    await this.#ask(`keep ${note}`);
  }

  /** Ends the tracking, whoever began it. To be closed all the same. */
  async end(): Promise<void> {
    const limits = { maxBytes: 1, maxFds: 0, timeoutMs: TIMEOUT_MS };
    try {
      sendFds(this.#socket, Buffer.from('end\n'), []);
      await receiveFds(this.#socket, limits); // its end, when it has ended
    } catch {
      await endProcess(this.pid); // if it has not ended
      rmSync(this.#socketPath, { force: true });
    }
  }

  close(): void {
    closeSync(this.#socket);
  }

  async #ask(line: string) {
    try {
      sendFds(this.#socket, Buffer.from(`${line}\n`), []);
    } catch (error) {
      throw lost(error);
    }
    return answer(this.#socket, TIMEOUT_MS);
  }
}

/** Processes that hold a tracking of this one, whoever has started them: they are found by their command lines. */
export function holdersOf(pid: number): number[] {
  return readdirSync('/proc').flatMap((entry) => {
    try {
      const [program = '', verb, of] = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0');
      const isHolder = path.basename(program) === path.basename(TRACKER_PATH) && verb === '--hold';
      return isHolder && of === `${pid}` ? [Number(entry)] : [];
    } catch {
      return []; // no process, or one that has just ended
    }
  });
}

/** Its userfaultfd is closed then: a mapping has one at a time. */
async function endProcess(pid: number): Promise<void> {
  const holder = identifyProcess(pid);
  if (holder === undefined) return;
  try {
    process.kill(pid, 'SIGKILL');
    await untilEnded(holder, TIMEOUT_MS);
  } catch {
    // It has ended, or the tracker that is opened next finds it in the way.
  }
}

function connect(socketPath: string): number | undefined {
  if (!existsSync(socketPath)) return undefined;
  try {
    return connectUnix(socketPath);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ECONNREFUSED') return undefined;
    throw error;
  }
}

async function answer(socket: number, timeoutMs: number): Promise<{ text: string; fd: number | undefined }> {
  try {
    const { payload, fds } = await receiveFds(socket, { maxBytes: MAX_LINE_BYTES, maxFds: 1, timeoutMs });
    const text = payload.toString();
    if (text.endsWith('\n')) return { text: text.slice(0, -1), fd: fds[0] };
  } catch (error) {
    throw lost(error);
  }
  throw lost();
}

function lost(cause?: unknown): VmckptError {
  const message = 'the process that keeps the write tracking has ended, or does not answer';
  return new VmckptError('FAILED', message, { cause });
}
