/** The verb's end of a transfer process: tells it when to connect, and hears how it went. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError, type ErrorCode } from '../../errors.js';
import { adopting } from '../../qemu/held-monitor.js';
import { debug, elidedCommand } from '../../util/debug.js';
import { withDeadline } from '../../util/deadline.js';
import { readLines } from '../../util/lines.js';
import { ownEnvironment } from '../../util/own-environment.js';
import { distFile } from '../../util/package-paths.js';
import type { PrefetchWishes } from '../../working-set/plan.js';
import { MAX_MESSAGE_BYTES, type TransferMessage } from '../../serving-protocol/messages.js';
import { SUCCESSOR_FLAG } from '../../serving-protocol/descriptors.js';
import type { TransferOrder } from '../../serving-protocol/order.js';
import type { VmFolder } from '../../vms/folder.js';

const LOAD_TIMEOUT_MS = 30_000;
const CLOSE_TIMEOUT_MS = 10_000;

/** What a transfer process is started with, before its own arguments. */
export const SERVER_COMMAND = [process.execPath, distFile('serving/main.js')];

/** The first process of a restore gets these behind the VM's name. */
export function serverArguments(generationDir: string, wishes: PrefetchWishes | undefined): string[] {
  return [generationDir, ...(wishes === undefined ? [] : [JSON.stringify(wishes)])];
}

type Complete = Extract<TransferMessage, { type: 'complete' }>;

/** How a transfer ended; `lost` when nobody serves the memory any more, and nobody has said why. */
export type TransferEnd =
  Complete | { readonly type: 'failed'; readonly error: VmckptError } | { readonly type: 'lost' };

/** A transfer process at work, or a succession of them. */
export interface ServedTransfer {
  /** Never rejects. */
  readonly ended: Promise<TransferEnd>;
  /** How often another process has taken the place of one that died. */
  readonly takeoverCount: number;
  onTakeover: () => void;
  /** Ends the process that serves at this moment. */
  kill(): void;
  /** The verb may end now, the transfer goes on. */
  release(): void;
}

export class TransferClient implements ServedTransfer {
  readonly #line: Socket;
  readonly #kill: () => void;
  readonly #loaded: Promise<void>;
  #onLoaded!: () => void;
  #onMachineLoaded!: () => void;
  #end!: (end: TransferEnd) => void;
  /** Resolves when the machine's state is in QEMU (its memory may not be). */
  readonly machineLoaded: Promise<void>;
  readonly ended: Promise<TransferEnd>;
  readonly #closed: Promise<unknown>;
  takeoverCount = 0;
  onTakeover: () => void = () => undefined;

  /** @param kill ends the process that serves at this moment */
  constructor(line: Socket, kill: () => void) {
    this.#line = line;
    this.#kill = kill;
    this.#closed = untilClosed(line);
    this.#loaded = new Promise((resolve) => (this.#onLoaded = resolve));
    this.machineLoaded = new Promise((resolve) => (this.#onMachineLoaded = resolve));
    this.ended = new Promise((resolve) => (this.#end = resolve));
    readLines(line, {
      maxLineBytes: MAX_MESSAGE_BYTES,
      onLine: (text) => this.#onMessage(parse(text)),
      onEnd: () => this.#end({ type: 'lost' }),
    });
  }

  /** A process without a keeper, for a VM whose last one has died. */
  static takeOver(folder: VmFolder, generationDir: string): TransferClient {
    const command = [...SERVER_COMMAND, folder.name, generationDir, SUCCESSOR_FLAG];
    return TransferClient.#run(folder, adopting(folder.readTransfer()?.held, command));
  }

  /** The first process of a restore without a keeper. @param args what `serverArguments()` returns */
  static start(folder: VmFolder, args: readonly string[]): TransferClient {
    return TransferClient.#run(folder, [...SERVER_COMMAND, folder.name, ...args]);
  }

  static #run(folder: VmFolder, [program, ...args]: readonly string[]): TransferClient {
    debug('launch', () => `the serving process: ${elidedCommand([program!, ...args])}`);
    const log = openSync(folder.file('transfer.log'), 'a', 0o600);
    const child = spawn(program!, args, {
      detached: true,
      env: ownEnvironment(),
      stdio: ['ignore', log, log, 'pipe'],
    });
    closeSync(log);
    child.unref();
    return new TransferClient(child.stdio[3] as Socket, () => child.kill('SIGKILL'));
  }

  /** Says that QEMU answers: its monitor can be opened while all else is prepared. */
  noteQemu(): void {
    this.#word();
  }

  /** Lets it connect to QEMU as soon as it has loaded. @throws VmckptError when it cannot load the checkpoint */
  async connect(order: TransferOrder): Promise<void> {
    await withDeadline(Promise.race([this.#loaded, this.failure()]), {
      what: 'the transfer process to open the checkpoint',
      timeoutMs: LOAD_TIMEOUT_MS,
    });
    this.#word(JSON.stringify(order));
  }

  /** Ends the wait of the background (see TransferOrder). Does nothing where there is none. */
  fill(): void {
    this.#word();
  }

  /** Says nothing more; resolves when no process is left at the other end. */
  async close(): Promise<void> {
    this.#line.end();
    await Promise.race([this.#closed, sleep(CLOSE_TIMEOUT_MS)]);
  }

  noteTakeover(): void {
    this.takeoverCount++;
    debug('restore', () => `takeover ${this.takeoverCount}: another process serves the memory`);
    this.onTakeover();
  }

  /** Nobody will take over. */
  giveUp(): void {
    this.#end({ type: 'lost' });
  }

  release(): void {
    this.#line.destroy();
  }

  kill(): void {
    this.#kill();
  }

  #onMessage(message: TransferMessage): void {
    if (message.type === 'loaded') this.#onLoaded();
    else if (message.type === 'machine-loaded') this.#onMachineLoaded();
    else if (message.type === 'complete') this.#end(message);
    else {
      const { code, message: reason, hint } = message;
      this.#end({ type: 'failed', error: new VmckptError(code as ErrorCode, reason, { hint }) });
    }
  }

  #word(text = ''): void {
    if (this.#line.writable) this.#line.write(`${text}\n`);
  }

  /** Rejects when the process fails or dies; never settles otherwise. */
  async failure(): Promise<never> {
    const end = await this.ended;
    if (end.type === 'failed') throw end.error;
    if (end.type === 'complete') return new Promise<never>(() => undefined);
    throw new VmckptError('TRANSFER_FAILED', 'the transfer process ended before the VM ran');
  }
}

/** Also when it ends with an error. */
export function untilClosed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once('close', () => resolve()));
}

function parse(text: string): TransferMessage {
  return JSON.parse(text) as TransferMessage;
}
