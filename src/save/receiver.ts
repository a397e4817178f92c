/**
 * The pipe that QEMU's migration stream comes through, and for a background-snapshot the native `vmckpt-receiver` that
 * keeps it open: a process that outlives this one. We read the pipe ourselves, so that no byte passes through it, and
 * when we die or give up it reads the stream to its end: QEMU 7.2 freezes a VM for ever whose background-snapshot is
 * cut off. Any other migration fails when nobody reads it, and the VM is then as before.
 *
 * A pipe, because a background-snapshot writes every page by itself: 250 of them fit before QEMU has to wait,
 * against 25 on a socket with the system's default buffer, and nobody is woken for one page.
 */
import { spawn } from 'node:child_process';
import { closeSync } from 'node:fs';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { VmckptError } from '../errors.js';
import { hasAddon, makePipe, RECEIVER_PATH, type Pipe } from '../native/index.js';
import type { QmpClient } from '../qemu/qmp.js';
import { debug, elidedCommand, isDebugging } from '../util/debug.js';
import { leaveControlGroup } from '../util/leave-control-group.js';
import { distFile } from '../util/package-paths.js';
import type { StreamMethod } from './methods.js';

/** What the system lets everybody have. */
const PIPE_BYTES = 1 << 20;
const COMMAND = hasAddon() ? [RECEIVER_PATH] : [process.execPath, distFile('save/receiver-process.js')];
/** QEMU's name for the write end. */
const FD_NAME = 'vmckpt-stream';

export class Receiver {
  readonly #consumer: Socket | undefined;
  readonly #readEnd: number;
  #writeEnd: number | undefined;

  private constructor(consumer: Socket | undefined, { readEnd, writeEnd }: Pipe) {
    this.#consumer = consumer;
    this.#readEnd = readEnd;
    this.#writeEnd = writeEnd;
  }

  /** What nobody reads any more is dropped, as it were read, or cut off. @throws VmckptError NATIVE_MISSING */
  static async start({ method }: { readonly method: StreamMethod }): Promise<Receiver> {
    const pipe = makePipe(PIPE_BYTES);
    if (method !== 'background-snapshot') return new Receiver(undefined, pipe);
    const [program, ...args] = COMMAND;
    debug('launch', () => `the receiver: ${elidedCommand(COMMAND)}`);
    const child = spawn(program!, args, {
      detached: true,
      stdio: ['pipe', 'ignore', isDebugging('receiver') ? 'inherit' : 'ignore', pipe.readEnd],
    });
    // It ends by itself, and may well be killed: neither is news to us.
    child.stdin!.on('error', () => undefined);
    try {
      await once(child, 'spawn');
    } catch (cause) {
      closeSync(pipe.readEnd);
      closeSync(pipe.writeEnd);
      throw new VmckptError('NATIVE_MISSING', 'the stream receiver could not be started', {
        hint: 'Build it: npm run build:native',
        cause,
      });
    }
    child.unref();
    // Not waited for: what it is told matters to nobody who saves.
    void leaveControlGroup();
    const consumer = child.stdin as Socket;
    consumer.unref();
    return new Receiver(consumer, pipe);
  }

  /** Gives the write end to QEMU. @returns where it is told to migrate to */
  async lendTo(qmp: QmpClient): Promise<string> {
    await qmp.execute('getfd', { fdname: FD_NAME }, { fd: this.#writeEnd! });
    this.#closeWriteEnd();
    return `fd:${FD_NAME}`;
  }

  /** What QEMU sends; non-blocking. */
  get stream(): number {
    return this.#readEnd;
  }

  /** Leaves what is still to come of the stream to the receiver, if there is one; nobody may read from here on. To be called once. */
  discard(): void {
    this.#closeWriteEnd();
    closeSync(this.#readEnd);
    this.#consumer?.destroy();
  }

  #closeWriteEnd(): void {
    if (this.#writeEnd !== undefined) closeSync(this.#writeEnd);
    this.#writeEnd = undefined;
  }
}

/** Takes a write end back that QEMU was lent and has not migrated to: its receiver would wait for ever. */
export async function takeBack(qmp: QmpClient): Promise<void> {
  try {
    await qmp.execute('closefd', { fdname: FD_NAME });
  } catch (error) {
    if (!(error instanceof VmckptError) || error.code !== 'QMP_COMMAND_FAILED') throw error;
  }
}
