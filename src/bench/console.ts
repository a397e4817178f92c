/**
 * The guest's serial console through QEMU's unix socket: heartbeats in, commands out. The lines are those of
 * fixtures/guest/verifier.c. A restored QEMU makes the same socket again: connect a new Console to it.
 */
import net from 'node:net';
import { poll, withDeadline } from '../util/deadline.js';

export interface Heartbeat {
  /** Counts every 100 ms of the guest's own time, for ever. */
  readonly n: number;
  /** Complete passes over the fixed pages. */
  readonly rounds: number;
  /** Pages found wrong since the guest booted. */
  readonly bad: number;
  readonly guestMs: number;
  /** performance.now() of the host when the line arrived. */
  readonly atMs: number;
}

export interface Verification {
  readonly ok: boolean;
  /** The heartbeat at its end. */
  readonly n: number;
  readonly pageCount: number;
  readonly bad: number;
  readonly verifyMs: number;
}

interface Waiter {
  readonly pattern: RegExp;
  readonly resolve: (match: RegExpExecArray) => void;
  readonly reject: (error: Error) => void;
}

const HEARTBEAT = /^HB n=(\d+) rounds=(\d+) bad=(\d+) t=(\d+)$/;
const VERIFY = /^VERIFY (ok|bad) n=(\d+) pages=(\d+) bad=(\d+) ms=(\d+)$/;
/** No line of the guest is longer; what is more is not a console. */
const MAX_LINE_CHARS = 4096;

export class Console {
  /** Everything seen since this console was connected. */
  readonly lines: string[] = [];
  readonly heartbeats: Heartbeat[] = [];
  #partial = '';
  #waiters: Waiter[] = [];
  #closed: Error | undefined;

  private constructor(private readonly socket: net.Socket) {
    socket.setEncoding('latin1');
    socket.on('data', (text) => this.#push(String(text)));
    socket.on('error', (cause) => this.#end(new Error('the console failed', { cause })));
    socket.on('close', () => this.#end(new Error('the console was closed')));
  }

  /** Tries until QEMU listens on `socketPath`. */
  static async connect(socketPath: string, timeoutMs = 60_000): Promise<Console> {
    const what = `a listener on ${socketPath}`;
    return poll(async () => tryConnect(socketPath), { what, timeoutMs, everyMs: 5 }).then(
      (socket) => new Console(socket),
    );
  }

  get last(): Heartbeat | undefined {
    return this.heartbeats.at(-1);
  }

  /** The next line that matches; lines seen before the call do not count. */
  async waitFor(pattern: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    let waiter: Waiter | undefined;
    const match = new Promise<RegExpExecArray>((resolve, reject) => {
      if (this.#closed) return reject(this.#closed);
      waiter = { pattern, resolve, reject };
      this.#waiters.push(waiter);
    });
    try {
      return await withDeadline(match, { what: `a console line like ${String(pattern)}`, timeoutMs });
    } finally {
      this.#waiters = this.#waiters.filter((other) => other !== waiter);
    }
  }

  async nextHeartbeat(timeoutMs = 60_000): Promise<Heartbeat> {
    return parseHeartbeat(await this.waitFor(HEARTBEAT, timeoutMs));
  }

  /** The guest checks all of its memory once. */
  async verify(timeoutMs = 120_000): Promise<Verification> {
    const [, verdict, n, pageCount, bad, verifyMs] = await this.#command('verify', VERIFY, timeoutMs);
    return {
      ok: verdict === 'ok',
      n: Number(n),
      pageCount: Number(pageCount),
      bad: Number(bad),
      verifyMs: Number(verifyMs),
    };
  }

  /** Whether the virtio disk, read past the page cache, has the sha256 that it was built with. */
  async diskIntact(): Promise<boolean> {
    return (await this.#command('disk', /^DISK (ok|bad) /))[1] === 'ok';
  }

  /** The same for a file on a tmpfs. */
  async tmpfsIntact(): Promise<boolean> {
    return (await this.#command('tmpfs', /^TMPFS (ok|bad) /))[1] === 'ok';
  }

  /** Stops checking and rewriting memory; heartbeats go on. */
  async idle(): Promise<void> {
    await this.#command('idle', /^OK idle$/);
  }

  async run(): Promise<void> {
    await this.#command('run', /^OK run$/);
  }

  close(): void {
    this.socket.destroy();
  }

  async #command(name: string, reply: RegExp, timeoutMs = 60_000): Promise<RegExpExecArray> {
    const answered = this.waitFor(reply, timeoutMs);
    this.socket.write(`${name}\n`);
    return answered;
  }

  #push(text: string): void {
    const pieces = (this.#partial + text).split('\n');
    this.#partial = pieces.pop() ?? '';
    if (this.#partial.length > MAX_LINE_CHARS) {
      this.socket.destroy(new Error(`console line longer than ${MAX_LINE_CHARS} characters`));
    }
    for (const piece of pieces) this.#line(piece.trimEnd());
  }

  #line(line: string): void {
    this.lines.push(line);
    const beat = HEARTBEAT.exec(line);
    if (beat) this.heartbeats.push(parseHeartbeat(beat));
    for (const waiter of this.#waiters) {
      const match = waiter.pattern.exec(line);
      if (match) waiter.resolve(match);
    }
  }

  #end(reason: Error): void {
    this.#closed ??= reason;
    for (const waiter of this.#waiters) waiter.reject(this.#closed);
  }
}

async function tryConnect(socketPath: string): Promise<net.Socket | undefined> {
  const socket = net.connect(socketPath);
  return new Promise((resolve) =>
    socket.once('connect', () => resolve(socket)).once('error', () => resolve(undefined)),
  );
}

function parseHeartbeat([, n, rounds, bad, guestMs]: RegExpExecArray): Heartbeat {
  return {
    n: Number(n),
    rounds: Number(rounds),
    bad: Number(bad),
    guestMs: Number(guestMs),
    atMs: performance.now(),
  };
}
