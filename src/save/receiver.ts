/**
 * The owner of the socket that QEMU's migration stream arrives on: the native `vmckpt-receiver`, a process that
 * outlives this one. It hands us a duplicate of the connection, so that no byte passes through it, and when we
 * die or give up it reads the stream to its end: QEMU 7.2 freezes a VM for ever whose background-snapshot is cut off.
 */
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, writeSync } from 'node:fs';
import { once } from 'node:events';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { connectUnix, receiveFds, RECEIVER_PATH } from '../native/index.js';
import { withDeadline } from '../util/deadline.js';

const START_TIMEOUT_MS = 10_000;
const DONE = Buffer.from('D');

export class Receiver {
  /** Where QEMU is told to migrate to. */
  readonly dataSocket: string;
  readonly #handoff: number;
  #closed = false;

  private constructor(dataSocket: string, handoff: number) {
    this.dataSocket = dataSocket;
    this.#handoff = handoff;
  }

  /** Starts a receiver that listens in a folder of its own below `directory`: one of an earlier save may still be there. */
  static async start(directory: string): Promise<Receiver> {
    const own = mkdtempSync(path.join(directory, 'receiver-'));
    const dataSocket = path.join(own, 'stream.sock');
    const handoffSocket = path.join(own, 'handoff.sock');
    const child = spawn(RECEIVER_PATH, [dataSocket, handoffSocket], {
      detached: true,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const failed = (cause?: unknown): never => {
      throw new VmckptError('NATIVE_MISSING', 'the stream receiver could not be started', {
        hint: 'npm run build:native',
        cause,
      });
    };
    const ended = once(child, 'exit').then(() => failed(), failed);
    const ready = Promise.race([once(child.stdout, 'data'), ended]);
    ended.catch(() => undefined); // once it is ready its end is no failure
    await withDeadline(ready, { what: 'the stream receiver', timeoutMs: START_TIMEOUT_MS });
    child.stdout.destroy();
    child.unref();
    return new Receiver(dataSocket, connectUnix(handoffSocket));
  }

  /** QEMU's connection, once it is there. The descriptor is ours to read from and to close. */
  async connection(wait: { readonly timeoutMs: number; readonly signal: AbortSignal }): Promise<number> {
    const { fds } = await receiveFds(this.#handoff, { maxBytes: 1, maxFds: 1, ...wait });
    const [fd] = fds;
    if (fd === undefined)
      throw new VmckptError('MIGRATION_FAILED', 'the stream receiver ended before QEMU connected to it');
    return fd;
  }

  /** The stream has been read to its end: the receiver may go. */
  done(): void {
    try {
      if (!this.#closed) writeSync(this.#handoff, DONE);
    } catch {
      // Somebody has killed it; our end of the connection has brought us everything all the same.
    }
    this.discard();
  }

  /** Leaves what is still to come of the stream to the receiver, which reads and drops it. */
  discard(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#handoff);
  }
}
