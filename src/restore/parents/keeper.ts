/**
 * The verb's end of a keeper (native/core/keeper.h): the small process that is the parent of QEMU and of the serving
 * process, and restarts the latter when it dies.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import type { Socket } from 'node:net';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../../errors.js';
import { KEEPER_PATH } from '../../native/index.js';
import type { ProcessEnd, StartedProcess, StartOptions } from '../../qemu/launch.js';
import { debug, elidedCommand } from '../../util/debug.js';
import { withDeadline } from '../../util/deadline.js';
import { readLines } from '../../util/lines.js';
import { quote } from '../../util/schema.js';
import { ownEnvironment } from '../../util/own-environment.js';
import {
  identifyProcess,
  isAlive,
  processesOfSession,
  untilEnded,
  type ProcessIdentity,
} from '../../util/process-identity.js';
import { sendSignal, SIGKILL } from '../../vms/processes.js';
import type { ProcessParent, ServerStart } from './parent.js';
import { toArguments } from '../../serving-protocol/arguments.js';
import { SERVER_COMMAND, ServerClient, untilClosed } from '../server-client/client.js';
import type { ServedTransfer } from '../server-client/handle.js';

const START_TIMEOUT_MS = 10_000;
/** A keeper that has not started another server within this time has given up. */
const GIVEN_UP_MS = 2_000;
const MAX_LINE_BYTES = 4096;
const WATCH_QEMU_EVERY_MS = 100;
/** How long a keeper may take to report an end, and a failed server to report its reason. */
const LAST_WORDS_MS = 500;
const KILL_TIMEOUT_MS = 5_000;

export class Keeper implements ProcessParent {
  readonly identity: ProcessIdentity | undefined;
  readonly server: ServerClient;
  readonly #process: ChildProcess;
  readonly #control: Socket;
  readonly #closed: Promise<unknown>;
  #released = false;
  #hasServed = false;
  #serverProcess: ProcessIdentity | undefined;
  #givenUp: NodeJS.Timeout | undefined;
  #onStarted: ((pid: number | VmckptError) => void) | undefined;
  #onQemuEnd: ((end: ProcessEnd) => void) | undefined;

  private constructor(child: ChildProcess) {
    this.#process = child;
    this.identity = child.pid === undefined ? undefined : identifyProcess(child.pid);
    const [control, line] = child.stdio.slice(3) as [Socket, Socket];
    this.#control = control;
    this.server = new ServerClient(line, () => this.#killServer());
    this.#closed = untilClosed(control);
    child.on('error', () => {
      control.destroy();
      line.destroy();
    });
    readLines(control, {
      maxLineBytes: MAX_LINE_BYTES,
      onLine: (text) => this.#onLine(text),
      onEnd: () => undefined, // then it closes
    });
  }

  /** Starts the keeper and, with it, the server, which opens the checkpoint while everything else is prepared. */
  static start({ folder, generation, wishes }: ServerStart): Keeper {
    const log = openSync(folder.file('transfer.log'), 'a', 0o600);
    const command = [...SERVER_COMMAND, ...toArguments({ name: folder.name, generation, wishes })];
    debug('launch', () => `the keeper: ${elidedCommand([KEEPER_PATH, ...command])}`);
    const child = spawn(KEEPER_PATH, command, {
      detached: true,
      env: ownEnvironment(),
      stdio: ['ignore', log, log, 'pipe', 'pipe'],
    });
    closeSync(log);
    return new Keeper(child);
  }

  /** A keeper replaces a dead server by itself. The line to the verb passes from one server to the next. */
  keepServing(): ServedTransfer {
    return this.server;
  }

  /** @throws VmckptError COMMAND_LINE_UNSUPPORTED, QEMU_FAILED_TO_START, TIMEOUT */
  async startQemu({ binary, args, cwd, logPath }: StartOptions): Promise<StartedProcess> {
    const text = nulEnded([cwd, logPath, binary, ...args]);
    const started = new Promise<number>((resolve, reject) => {
      this.#onStarted = (pid) => (typeof pid === 'number' ? resolve(pid) : reject(pid));
    });
    const ended = new Promise<ProcessEnd>((resolve) => (this.#onQemuEnd = resolve));
    const length = Buffer.alloc(4);
    length.writeUInt32BE(text.length);
    this.#control.write(Buffer.concat([length, text]));
    const lost = this.#died().then(async () => {
      // The keeper also ends when its server could not open the checkpoint.
      await Promise.race([this.server.failure(), sleep(LAST_WORDS_MS)]);
      throw new VmckptError('QEMU_FAILED_TO_START', 'the process that starts QEMU has died');
    });
    lost.catch(() => undefined); // raced below; later nothing awaits it
    const pid = await withDeadline(Promise.race([started, lost]), {
      what: 'QEMU to be started',
      timeoutMs: START_TIMEOUT_MS,
    });
    const qemu = identifyProcess(pid);
    return {
      pid,
      exited: Promise.race([ended, this.#endUntold(qemu)]),
      kill: () => qemu !== undefined && sendSignal(qemu, SIGKILL),
    };
  }

  /** The verb may end now; everything else goes on. */
  release(): void {
    this.#released = true;
    this.server.release();
    this.#control.destroy();
    this.#process.unref();
  }

  /** Ends the keeper and everything that it started. Returns when all of it is gone. */
  async kill(): Promise<void> {
    this.#killSession();
    await this.#closed;
    // Again, for processes that it was starting in the meantime.
    const others = this.#killSession();
    await this.server.close();
    // One that even SIGKILL does not end at once, because of its disk, is not waited for.
    await Promise.allSettled(others.map((other) => untilEnded(other, KILL_TIMEOUT_MS)));
  }

  /** Includes a QEMU that the keeper started but could not report. @returns what has been killed besides the keeper */
  #killSession(): ProcessIdentity[] {
    if (this.identity === undefined) return [];
    sendSignal(this.identity, SIGKILL);
    const members = processesOfSession(this.identity);
    for (const member of members) sendSignal(member, SIGKILL);
    return members;
  }

  async #died(): Promise<void> {
    await this.#closed;
    if (this.#released) await new Promise(() => undefined);
  }

  /** The end of a QEMU that the keeper does not report because it has died or hangs. Its exit status is unknown. */
  async #endUntold(qemu: ProcessIdentity | undefined): Promise<ProcessEnd> {
    const pause = () => sleep(WATCH_QEMU_EVERY_MS, undefined, { ref: false });
    while (qemu !== undefined && isAlive(qemu)) await pause();
    await sleep(LAST_WORDS_MS, undefined, { ref: false });
    return { exitCode: null, killedBy: null };
  }

  #killServer(): void {
    if (this.#serverProcess !== undefined) sendSignal(this.#serverProcess, SIGKILL);
  }

  #onLine(text: string): void {
    const [what, ...numbers] = text.split(' ');
    const number = Number(numbers.at(-1));
    if (what === 'server') this.#onServer(number);
    else if (what === 'server-killed' || (what === 'server-ended' && number !== 0)) this.#onServerLost();
    else if (what === 'started') this.#onStarted?.(number);
    else if (what === 'failed') this.#onStarted?.(failedToStart(numbers[0]!, number));
    else if (what === 'ended') this.#onQemuEnd?.({ exitCode: number, killedBy: null });
    else if (what === 'killed') this.#onQemuEnd?.({ exitCode: null, killedBy: signalName(number) });
  }

  #onServer(pid: number): void {
    if (this.#hasServed) this.server.noteTakeover();
    this.#hasServed = true;
    // It may have died already.
    this.#serverProcess = identifyProcess(pid);
    clearTimeout(this.#givenUp);
  }

  /** A server that could report why it failed has already done so. */
  #onServerLost(): void {
    this.#givenUp = setTimeout(() => this.server.giveUp(), GIVEN_UP_MS);
    this.#givenUp.unref();
  }
}

/** A NUL inside a part would split it in two. */
function nulEnded(parts: readonly string[]): Buffer {
  const broken = parts.find((part) => part.includes('\0'));
  if (broken !== undefined)
    throw new VmckptError('COMMAND_LINE_UNSUPPORTED', `${quote(broken)} holds a NUL character`, {
      hint: 'No argument and no file name may have one: remove it.',
    });
  return Buffer.from(parts.map((part) => `${part}\0`).join(''));
}

function failedToStart(step: string, errno: number): VmckptError {
  const reason =
    Object.entries(os.constants.errno).find(([, value]) => value === errno)?.[0] ?? `error ${errno}`;
  return new VmckptError('QEMU_FAILED_TO_START', `QEMU could not be started (${step}: ${reason})`);
}

function signalName(signal: number): NodeJS.Signals | null {
  const found = Object.entries(os.constants.signals).find(([, value]) => value === signal);
  return (found?.[0] as NodeJS.Signals | undefined) ?? null;
}
