/** The verb's end of a serving process: tells it when to connect, and receives its result. */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError, type ErrorCode } from '../../errors.js';
import { adopting } from '../../qemu/held-monitor.js';
import { debug, elidedCommand } from '../../util/debug.js';
import type { GenerationRef } from '../../store/generation-ref.js';
import { withDeadline } from '../../util/deadline.js';
import { readLines } from '../../util/lines.js';
import { ownEnvironment } from '../../util/own-environment.js';
import { distFile } from '../../util/package-paths.js';
import { toArguments, type ServerArguments } from '../../serving-protocol/arguments.js';
import {
  decodeServerMessage,
  encode,
  MAX_MESSAGE_BYTES,
  type ServerMessage,
  type VerbMessage,
} from '../../serving-protocol/messages.js';
import type { ServingOrder } from '../../serving-protocol/order.js';
import type { VmFolder } from '../../vms/folder.js';
import type { ServedTransfer, TransferEnd } from './handle.js';

const LOAD_TIMEOUT_MS = 30_000;
const CLOSE_TIMEOUT_MS = 10_000;

/** Starts a serving process; its own arguments follow (serving-protocol/arguments.ts). */
export const SERVER_COMMAND = [process.execPath, distFile('serving/main.js')];

export class ServerClient implements ServedTransfer {
  readonly #line: Socket;
  readonly #kill: () => void;
  readonly #checkpointOpened: Promise<void>;
  #onCheckpointOpened!: () => void;
  #onMachineLoaded!: () => void;
  #end!: (end: TransferEnd) => void;
  /** Resolves when QEMU has the machine's state (perhaps not its memory). */
  readonly machineLoaded: Promise<void>;
  readonly ended: Promise<TransferEnd>;
  readonly #closed: Promise<unknown>;
  takeoverCount = 0;
  onTakeover: () => void = () => undefined;

  /** @param kill ends the process that currently serves */
  constructor(line: Socket, kill: () => void) {
    this.#line = line;
    this.#kill = kill;
    this.#closed = untilClosed(line);
    this.#checkpointOpened = new Promise((resolve) => (this.#onCheckpointOpened = resolve));
    this.machineLoaded = new Promise((resolve) => (this.#onMachineLoaded = resolve));
    this.ended = new Promise((resolve) => (this.#end = resolve));
    readLines(line, {
      maxLineBytes: MAX_MESSAGE_BYTES,
      onLine: (text) => this.#onLine(text),
      onEnd: () => this.#end({ type: 'lost' }),
    });
  }

  /** A process without a keeper, for a VM that nothing serves any more. */
  static takeOver(folder: VmFolder, generation: GenerationRef): ServerClient {
    const args = toArguments({ name: folder.name, generation, isSuccessor: true });
    return ServerClient.#run(folder, adopting(folder.readTransfer()?.held, [...SERVER_COMMAND, ...args]));
  }

  /** The first process of a restore without a keeper. */
  static start(folder: VmFolder, start: ServerArguments): ServerClient {
    return ServerClient.#run(folder, [...SERVER_COMMAND, ...toArguments(start)]);
  }

  static #run(folder: VmFolder, [program, ...args]: readonly string[]): ServerClient {
    debug('launch', () => `the serving process: ${elidedCommand([program!, ...args])}`);
    const log = openSync(folder.file('transfer.log'), 'a', 0o600);
    const child = spawn(program!, args, {
      detached: true,
      env: ownEnvironment(),
      stdio: ['ignore', log, log, 'pipe'],
    });
    closeSync(log);
    child.unref();
    return new ServerClient(child.stdio[3] as Socket, () => child.kill('SIGKILL'));
  }

  /** QEMU answers: its monitor can be opened while everything else is prepared. */
  noteQemu(): void {
    this.#tell({ type: 'qemu-ready' });
  }

  /** Sends the order once the server has opened the checkpoint. @throws VmckptError when it cannot open it */
  async give(order: ServingOrder): Promise<void> {
    await withDeadline(Promise.race([this.#checkpointOpened, this.failure()]), {
      what: 'the serving process to open the checkpoint',
      timeoutMs: LOAD_TIMEOUT_MS,
    });
    this.#tell({ type: 'order', order });
  }

  /** Ends the wait of a background that is `when-told` (see ServingOrder); otherwise does nothing. */
  fill(): void {
    this.#tell({ type: 'fill' });
  }

  /** Sends nothing more. Resolves when no process is left at the other end. */
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

  #onLine(line: string): void {
    try {
      this.#onMessage(decodeServerMessage(line));
    } catch (error) {
      this.#end({ type: 'failed', error: error as VmckptError });
    }
  }

  #onMessage(message: ServerMessage): void {
    if (message.type === 'checkpoint-opened') this.#onCheckpointOpened();
    else if (message.type === 'machine-loaded') this.#onMachineLoaded();
    else if (message.type === 'complete') this.#end(message);
    else {
      const { code, message: reason, hint } = message;
      this.#end({ type: 'failed', error: new VmckptError(code as ErrorCode, reason, { hint }) });
    }
  }

  #tell(message: VerbMessage): void {
    if (this.#line.writable) this.#line.write(encode(message));
  }

  /** Rejects when the process fails or dies; never settles otherwise. */
  async failure(): Promise<never> {
    const end = await this.ended;
    if (end.type === 'failed') throw end.error;
    if (end.type === 'complete') return new Promise<never>(() => undefined);
    throw new VmckptError('TRANSFER_FAILED', 'the serving process ended before the VM ran');
  }
}

/** Also when it ends with an error. */
export function untilClosed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once('close', () => resolve()));
}
