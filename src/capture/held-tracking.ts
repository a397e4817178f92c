/**
 * Write tracking that goes on between two saves: a small process keeps the userfaultfd (native/core/holder.h says why, and
 * what is said to it).
 */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { connectUnix, receiveFds, sendFds, TRACKER_PATH } from '../native/index.js';
import { parseJson } from '../util/json-file.js';

const TIMEOUT_MS = 5_000;
const MAX_LINE_BYTES = 4096;
const READY = 'ready\n';

const Answer = v.object({ id: v.string() });

export interface HoldOptions {
  readonly pid: number;
  /** Of an armed tracker; a duplicate is kept. */
  readonly userfaultfd: number;
  /** Where nothing is yet: in the VM's runtime folder, at most 107 bytes. */
  readonly socketPath: string;
  /** Of the generation that was saved at the instant from which on writes are tracked. */
  readonly generationId: string;
}

/** Returns when it can be found. It ends with the tracked process. @throws VmckptError FAILED */
export async function holdTracking(options: HoldOptions): Promise<void> {
  const { pid, userfaultfd, socketPath, generationId } = options;
  const child = spawn(TRACKER_PATH, ['--hold', `${pid}`, socketPath, generationId], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit', userfaultfd],
  });
  child.on('error', () => undefined); // told by what is missing
  let said = '';
  for await (const chunk of child.stdout!) said += (chunk as Buffer).toString();
  child.unref();
  if (said !== READY) throw new VmckptError('FAILED', 'the process that keeps the write tracking has failed');
}

/** One that was taken: unless `keep()` has been called, the tracking ends with `close()`, or with this process. */
export class HeldTracking {
  readonly #socket: number;

  private constructor(
    socket: number,
    /** The generation from which on writes are tracked. */
    readonly generationId: string,
  ) {
    this.#socket = socket;
  }

  /** @returns undefined where nothing is held */
  static async find(socketPath: string): Promise<HeldTracking | undefined> {
    const socket = connect(socketPath);
    if (socket === undefined) return undefined;
    try {
      return new HeldTracking(socket, (await answer(socket)).id);
    } catch (error) {
      closeSync(socket);
      throw error;
    }
  }

  /** @returns its userfaultfd. The tracking is in use from now on. @throws VmckptError FAILED */
  async take(): Promise<number> {
    const { fd } = await this.#ask('take');
    if (fd === undefined) throw lost();
    return fd;
  }

  /** It goes on from that generation. @throws VmckptError FAILED */
  async keep(generationId: string): Promise<void> {
    await this.#ask(`keep ${generationId}`);
  }

  /** Ends the tracking, whoever began it. */
  async end(): Promise<void> {
    sendFds(this.#socket, Buffer.from('end\n'), []);
    const limits = { maxBytes: MAX_LINE_BYTES, maxFds: 0, timeoutMs: TIMEOUT_MS };
    await receiveFds(this.#socket, limits).catch(() => undefined); // its end, when it has ended
  }

  close(): void {
    closeSync(this.#socket);
  }

  async #ask(line: string) {
    sendFds(this.#socket, Buffer.from(`${line}\n`), []);
    return answer(this.#socket);
  }
}

function connect(socketPath: string): number | undefined {
  try {
    return connectUnix(socketPath);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ECONNREFUSED') return undefined;
    throw error;
  }
}

async function answer(socket: number): Promise<{ id: string; fd: number | undefined }> {
  const { payload, fds } = await receiveFds(socket, {
    maxBytes: MAX_LINE_BYTES,
    maxFds: 1,
    timeoutMs: TIMEOUT_MS,
  });
  const said = parseJson(Answer, payload.toString());
  if (said === undefined) throw lost();
  return { id: said.id, fd: fds[0] };
}

function lost(): VmckptError {
  return new VmckptError('FAILED', 'the process that keeps the write tracking has ended');
}
