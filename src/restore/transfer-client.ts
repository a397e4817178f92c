/** The verb's end of a transfer process: starts it, tells it when to connect, and hears how it went. */
import { fork, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { VmckptError, type ErrorCode } from '../errors.js';
import { withDeadline } from '../util/deadline.js';
import { distFile } from '../util/package-paths.js';
import type { TransferMessage, TransferOrder } from './transfer-job.js';
import type { VmFolder } from './vm-record.js';

const LOAD_TIMEOUT_MS = 30_000;

type Complete = Extract<TransferMessage, { type: 'complete' }>;

/** How a transfer ended; `lost` when its process died without a word. */
export type TransferEnd =
  Complete | { readonly type: 'failed'; readonly error: VmckptError } | { readonly type: 'lost' };

export class TransferClient {
  readonly #child: ChildProcess;
  readonly #loaded: Promise<void>;
  readonly #closed: Promise<void>;
  /** Resolves when the machine's state is in QEMU (its memory may not be). */
  readonly machineLoaded: Promise<void>;
  /** Never rejects. */
  readonly ended: Promise<TransferEnd>;

  private constructor(child: ChildProcess) {
    this.#child = child;
    // What it said last may still be in the pipe when it has exited: 'close' comes behind it.
    this.#closed = new Promise((resolve) => {
      child.once('close', () => resolve()).once('error', () => resolve());
    });
    const said = (type: TransferMessage['type']) =>
      new Promise<void>((resolve) => {
        child.on('message', (message: TransferMessage) => message.type === type && resolve());
      });
    this.#loaded = said('loaded');
    this.machineLoaded = said('machine-loaded');
    this.ended = new Promise((resolve) => {
      child.on('message', (message: TransferMessage) => {
        if (message.type === 'complete') resolve(message);
        else if (message.type === 'failed') {
          const { code, message: text, hint } = message;
          resolve({ type: 'failed', error: new VmckptError(code as ErrorCode, text, { hint }) });
        }
      });
      void this.#closed.then(() => resolve({ type: 'lost' }));
    });
  }

  /** Starts the process; it opens the checkpoint while QEMU starts. */
  static start(folder: VmFolder, generationDir: string): TransferClient {
    const log = openSync(folder.file('transfer.log'), 'a', 0o600);
    const child = fork(distFile('restore/transfer-process.js'), [folder.name, generationDir], {
      detached: true,
      stdio: ['ignore', log, log, 'ipc'],
      execArgv: [],
    });
    closeSync(log);
    return new TransferClient(child);
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Lets it connect to QEMU as soon as it has loaded. @throws VmckptError when it cannot load the checkpoint */
  async connect(order: TransferOrder): Promise<void> {
    await withDeadline(Promise.race([this.#loaded, this.failure()]), {
      what: 'the transfer process to open the checkpoint',
      timeoutMs: LOAD_TIMEOUT_MS,
    });
    // One that has died in between is heard of through `ended`.
    this.#child.send(order, () => undefined);
  }

  /** The verb may end now, the process goes on. */
  release(): void {
    if (this.#child.connected) this.#child.disconnect();
    this.#child.unref();
  }

  /** Returns when it is gone, and writes nothing any more. */
  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#closed;
  }

  /** Rejects when the process fails or dies; never settles otherwise. */
  async failure(): Promise<never> {
    const end = await this.ended;
    if (end.type === 'failed') throw end.error;
    if (end.type === 'complete') return new Promise<never>(() => undefined);
    throw new VmckptError('TRANSFER_FAILED', 'the transfer process ended before the VM ran');
  }
}
