import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, readdirSync, readlinkSync, statSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { buffer } from 'node:stream/consumers';
import { describe, expect, onTestFinished, test } from 'vitest';
import { KEEPER_PATH } from '../../../src/native/index.js';
import { isAlive } from '../../support/processes.js';
import { temporaryDirectory } from './temporary.js';

const ADDON_PATH = path.join(path.dirname(KEEPER_PATH), 'vmckpt_native.node');
const NONE = '0000000000000000';

/** A server that evaluates each line from the verb and answers with the value. */
const OBEDIENT = [
  process.execPath,
  '-e',
  `const native = require(${JSON.stringify(ADDON_PATH)});
   const fs = require('node:fs');
   const line = new (require('node:net').Socket)({ fd: 3 });
   require('node:readline').createInterface(line).on('line', (text) => {
     const value = eval(text);
     line.write(JSON.stringify(value ?? null) + '\\n');
   });`,
  'server',
];
const IDLE = ['/bin/sleep', '600'];

function shell(script: string): string[] {
  return ['/bin/sh', '-c', script, 'sh'];
}

class Verb {
  readonly process: ChildProcess;
  readonly line: net.Socket;
  readonly serverLine: net.Socket;
  /** [code, signal] of the keeper once it has ended. */
  readonly exited: Promise<unknown[]>;
  readonly #said: AsyncIterator<string, undefined>;
  readonly #answers: AsyncIterator<string, undefined>;

  constructor(process: ChildProcess) {
    this.process = process;
    this.line = process.stdio[3] as net.Socket;
    this.serverLine = process.stdio[4] as unknown as net.Socket;
    this.exited = once(process, 'exit');
    this.#said = lines(this.line);
    this.#answers = lines(this.serverLine);
  }

  /** What the keeper says next; undefined at the end. */
  async next(): Promise<string | undefined> {
    return (await this.#said.next()).value;
  }

  /** The process id at the end of the line that comes next. */
  async pidOf(word: 'server' | 'started'): Promise<number> {
    const said = await this.next();
    expect(said).toMatch(new RegExp(`^${word} \\d+$`));
    return Number(said!.split(' ')[1]);
  }

  start(argv: readonly string[], { directory = '/', log = '/dev/null' } = {}): void {
    this.line.write(startMessage([directory, log, ...argv]));
  }

  /** What an obedient server says to that expression. */
  async ask(expression: string): Promise<unknown> {
    this.serverLine.write(`${expression}\n`);
    const answer = await this.#answers.next();
    return JSON.parse(answer.value!);
  }

  /** Has an obedient server do something that it does not survive. */
  order(expression: string): void {
    this.serverLine.write(`${expression}\n`);
  }
}

/** Whatever it starts, at whatever depth, ends with the test. */
function startKeeper(server: readonly string[], { score = 0, shellFirst = '' } = {}): Verb {
  const mark = randomUUID();
  const keeper = spawn(
    '/bin/sh',
    ['-c', `${shellFirst}\necho ${score} > /proc/self/oom_score_adj; exec "$0" "$@"`, KEEPER_PATH, ...server],
    {
      // The last is one that nobody has asked for.
      stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe', 2],
      env: { ...process.env, KEEPER_TEST: mark },
    },
  );
  const verb = new Verb(keeper);
  onTestFinished(async () => {
    keeper.kill('SIGKILL');
    await verb.exited;
    verb.line.destroy();
    verb.serverLine.destroy();
    await expect.poll(() => killMarked(mark)).toBe(0);
  });
  return verb;
}

/** Kills every process with this mark in its environment, and returns how many there were. */
function killMarked(mark: string): number {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && environment(name).includes(mark));
  for (const pid of pids) {
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // It has ended meanwhile.
    }
  }
  return pids.length;
}

function environment(pid: number | string): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1');
  } catch {
    return '';
  }
}

function lines(socket: net.Socket): AsyncIterator<string, undefined> {
  // Its end is seen by whoever reads; a reset is an end, too.
  socket.on('error', () => {});
  const reader: Interface = createInterface(socket);
  return reader[Symbol.asyncIterator]();
}

function startMessage(strings: readonly string[]): Buffer {
  const payload = Buffer.from(strings.map((string) => `${string}\0`).join(''));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(payload.length);
  return Buffer.concat([length, payload]);
}

/** Field 6 of proc(5), stat. */
function sessionOf(pid: number): string {
  return readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[3]!;
}

/** The number of each descriptor of a process, and what it is; sockets without their numbers. */
function descriptors(pid: number): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .sort((a, b) => Number(a) - Number(b))
    .map((fd) => `${fd} ${readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/\[.*/, '')}`);
}

/** By name: field of /proc/PID/status. */
function status(pid: number, field: string): string {
  return new RegExp(`^${field}:\\s+(\\S+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]!;
}

/** Resolves when the process executes that program: a server is announced before it does. */
async function executes(pid: number, name: string): Promise<void> {
  await expect.poll(() => status(pid, 'Name')).toBe(name);
}

interface Peer {
  /** Connects to it; for use in a server. */
  readonly connect: string;
  /** The other end, once connected. */
  readonly connected: Promise<net.Socket>;
}

/** Plays QEMU's end of a connection. */
async function startPeer(): Promise<Peer> {
  const socketPath = path.join(temporaryDirectory(), 'peer');
  const server = net.createServer().listen(socketPath);
  await once(server, 'listening');
  const connected = once(server, 'connection').then(([socket]) => socket as net.Socket);
  onTestFinished(async () => {
    server.close();
    (await Promise.race([connected, Promise.resolve(undefined)]))?.destroy();
  });
  return { connect: `native.connectUnix(${JSON.stringify(socketPath)})`, connected };
}

/** A keeper with a QEMU and an obedient server that has left a connection to a peer in slot 2. */
async function startHolding(): Promise<{ verb: Verb; server: number; qemu: number; peer: net.Socket }> {
  const verb = startKeeper(OBEDIENT);
  const server = await verb.pidOf('server');
  verb.start(IDLE);
  const qemu = await verb.pidOf('started');
  const { connect, connected } = await startPeer();
  await verb.ask(`native.sendFds(4, Buffer.from([2]), [(globalThis.first = ${connect})])`);
  // Its own seven, and what it holds.
  await expect.poll(() => descriptors(verb.process.pid!).length).toBe(8);
  return { verb, server, qemu, peer: await connected };
}

describe('the children of vmckpt-keeper', () => {
  test('the server has its own descriptors and nothing else', async () => {
    const verb = startKeeper(IDLE);
    const server = await verb.pidOf('server');
    await executes(server, 'sleep');
    const standard = descriptors(verb.process.pid!).slice(0, 3);
    expect(descriptors(server)).toEqual([...standard, '3 socket:', '4 socket:']);
    expect(environment(server)).toContain('\0VMCKPT_HELD=\0');
    expect(readFileSync(`/proc/${server}/cmdline`, 'latin1')).toBe('/bin/sleep\x00600\0');
  });

  test('QEMU has its log, its directory, the session of its server, as whose CPU time the scheduler counts its own, and nothing else', async () => {
    const directory = temporaryDirectory();
    const log = path.join(directory, 'log');
    // A name that consists of several UTF-8 bytes, and an empty argument.
    const script = 'echo "$# [$1] $2 in $(pwd)"; echo oops >&2; exec sleep 600';
    const verb = startKeeper(IDLE);
    const server = await verb.pidOf('server');
    verb.start([...shell(script), '', 'ü'], { directory, log });
    const qemu = await verb.pidOf('started');
    await executes(qemu, 'sleep');
    expect(readFileSync(log, 'utf8')).toBe(`2 [] ü in ${directory}\noops\n`);
    expect(statSync(log).mode & 0o777).toBe(0o600);
    expect(descriptors(qemu)).toEqual(['0 /dev/null', `1 ${log}`, `2 ${log}`]);
    const keeper = String(verb.process.pid);
    expect([qemu, server].map(sessionOf)).toEqual([keeper, keeper]);
    expect(status(qemu, 'PPid')).toBe(keeper);
  });

  test('appends to a log that exists, and takes a start message in pieces', async () => {
    const log = path.join(temporaryDirectory(), 'log');
    const verb = startKeeper(IDLE);
    await verb.pidOf('server');
    const message = startMessage(['/', log, ...shell('echo once >&2; exit 5')]);
    for (const byte of message) {
      verb.line.write(Buffer.of(byte));
      await new Promise(setImmediate);
    }
    await verb.pidOf('started');
    expect(await verb.next()).toBe('ended 5');
    expect(readFileSync(log, 'utf8')).toBe('once\n');
  });

  test('takes a start message of megabytes', async () => {
    const verb = startKeeper(IDLE);
    await verb.pidOf('server');
    const argument = 'x'.repeat(100_000);
    verb.start([...shell('exit $#'), ...Array<string>(15).fill(argument)]);
    await verb.pidOf('started');
    expect(await verb.next()).toBe('ended 15');
  });

  test('have the signals and the OOM score that the keeper was started with', async () => {
    const verb = startKeeper(IDLE, { score: 321, shellFirst: "trap '' USR2 TERM CHLD" });
    const server = await verb.pidOf('server');
    verb.start(IDLE);
    const qemu = await verb.pidOf('started');
    await executes(server, 'sleep');
    for (const child of [server, qemu]) {
      expect(status(child, 'SigIgn')).toBe(NONE);
      expect(status(child, 'SigBlk')).toBe(NONE);
      expect(readFileSync(`/proc/${child}/oom_score_adj`, 'utf8')).toBe('321\n');
    }
    // -1000 is the superuser's privilege.
    expect(readFileSync(`/proc/${verb.process.pid}/oom_score_adj`, 'utf8')).toMatch(/^(-1000|321)\n$/);
  });

  test.each([
    ['exec', 2, ['/nowhere/qemu'], {}],
    ['exec', 13, ['/etc/passwd'], {}],
    ['chdir', 2, IDLE, { directory: '/nowhere' }],
    ['log', 2, IDLE, { log: '/nowhere/log' }],
  ] as const)('a QEMU that fails at %s with %i is reported, and may be tried again', async (...failure) => {
    const [step, errno, argv, options] = failure;
    const verb = startKeeper(IDLE);
    await verb.pidOf('server');
    verb.start(argv, options);
    expect(await verb.next()).toBe(`failed ${step} ${errno}`);
    verb.start(IDLE);
    await verb.pidOf('started');
  });
});

describe('vmckpt-keeper holds descriptors', () => {
  test('over the death of a server by a signal, for the successor', async () => {
    const { verb, server, peer } = await startHolding();
    const data = once(peer, 'data');
    let ended = false;
    peer.on('end', () => (ended = true));
    process.kill(server, 'SIGKILL');
    expect(await verb.next()).toBe('server-killed 9');
    await verb.pidOf('server');
    expect(await verb.ask('process.env.VMCKPT_HELD')).toBe('2=5');
    expect(await verb.ask('process.argv.at(-1)')).toBe('--successor');
    await verb.ask("fs.writeSync(5, 'still here')");
    expect(String(await data)).toBe('still here');
    expect(ended).toBe(false);
  });

  test('that a server sent right before it was killed, each in its slot', async () => {
    const { verb, server } = await startHolding();
    const folder = temporaryDirectory();
    // The keeper learns of the messages and of the death at once.
    verb.process.kill('SIGSTOP');
    verb.order(
      `for (const slot of [7, 6, 5, 4, 3, 2, 1, 0])
         native.sendFds(4, Buffer.from([slot]), [fs.openSync(${JSON.stringify(folder)} + '/' + slot, 'w')]);
       process.kill(process.pid, 'SIGKILL')`.replaceAll('\n', ' '),
    );
    await expect.poll(() => isAlive(server)).toBe(false);
    verb.process.kill('SIGCONT');
    expect(await verb.next()).toBe('server-killed 9');
    const successor = await verb.pidOf('server');
    expect(await verb.ask('process.env.VMCKPT_HELD')).toBe('0=5,1=6,2=7,3=8,4=9,5=10,6=11,7=12');
    const files = Array.from({ length: 8 }, (_, slot) => `${slot + 5} ${folder}/${slot}`);
    expect(descriptors(successor).slice(3, 13)).toEqual(['3 socket:', '4 socket:', ...files]);
  });

  test('until another one takes the slot, or nothing does', async () => {
    const { verb, peer } = await startHolding();
    const { connect, connected } = await startPeer();
    const firstEnded = once(peer.resume(), 'end');
    await verb.ask('fs.closeSync(first)');
    await verb.ask(`{ const fd = ${connect}; native.sendFds(4, Buffer.from([2]), [fd]); fs.closeSync(fd) }`);
    await firstEnded;
    const second = await connected;
    expect(second.readableEnded).toBe(false);
    const secondEnded = once(second.resume(), 'end');
    await verb.ask('native.sendFds(4, Buffer.from([2]), [])');
    await secondEnded;
  });

  test('whatever nonsense comes', async () => {
    const { verb, server } = await startHolding();
    const before = descriptors(verb.process.pid!);
    await verb.ask('native.sendFds(4, Buffer.alloc(0), [])');
    await verb.ask('native.sendFds(4, Buffer.alloc(0), [0])');
    await verb.ask('native.sendFds(4, Buffer.from([8]), [0])');
    await verb.ask('native.sendFds(4, Buffer.from([255]), [])');
    await verb.ask('native.sendFds(4, Buffer.from([2, 2]), [])');
    await verb.ask('native.sendFds(4, Buffer.from([2]), [0, 1])');
    await verb.ask('native.sendFds(4, Buffer.from([2]), Array(100).fill(0))');
    await verb.ask('native.sendFds(4, Buffer.alloc(9000), [0, 1, 2])');
    await verb.ask('native.sendFds(4, Buffer.from([3]), [0])');
    await expect
      .poll(() => descriptors(verb.process.pid!))
      .toEqual([...before, expect.stringMatching(/null$/)]);
    process.kill(server, 'SIGKILL');
    await verb.next();
    await verb.pidOf('server');
    expect(await verb.ask('process.env.VMCKPT_HELD')).toBe('2=5,3=6');
  });

  test('although the server has closed its end, and without spinning', async () => {
    const { verb, server } = await startHolding();
    await verb.ask('fs.closeSync(4)');
    const ticks = () =>
      Number(readFileSync(`/proc/${verb.process.pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[11]);
    const before = ticks();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(ticks() - before).toBeLessThan(5);
    process.kill(server, 'SIGKILL');
    await verb.next();
    await verb.pidOf('server');
    expect(await verb.ask('process.env.VMCKPT_HELD')).toBe('2=5');
  });

  test('not for a server that exits with an error; SIGUSR1 starts its successor', async () => {
    const { verb, qemu, peer } = await startHolding();
    const ended = once(peer.resume(), 'end');
    verb.order('process.exit(3)');
    expect(await verb.next()).toBe('server-ended 3');
    await ended;
    verb.process.kill('SIGUSR1');
    const successor = await verb.pidOf('server');
    expect(await verb.ask('[process.argv.at(-1), process.env.VMCKPT_HELD]')).toEqual(['--successor', '']);
    // Ignored while there is one.
    verb.process.kill('SIGUSR1');
    expect(await verb.ask('process.pid')).toBe(successor);
    process.kill(qemu, 'SIGTERM');
    expect(await verb.next()).toBe('killed 15');
  });
});

describe('vmckpt-keeper ends', () => {
  test('with a server that has done its work; QEMU goes on', async () => {
    const { verb, qemu, peer } = await startHolding();
    const ended = once(peer.resume(), 'end');
    verb.order('process.exit(0)');
    expect(await verb.next()).toBe('server-ended 0');
    expect(await verb.next()).toBe(undefined);
    expect(await verb.exited).toEqual([0, null]);
    await ended;
    expect(isAlive(qemu)).toBe(true);
  });

  test('with QEMU, when the server has ended by itself', async () => {
    const verb = startKeeper(shell('read -r word <&3; exit 4'));
    await verb.pidOf('server');
    verb.start(shell('exit 7'));
    await verb.pidOf('started');
    expect(await verb.next()).toBe('ended 7');
    verb.serverLine.write('go\n');
    expect(await verb.next()).toBe('server-ended 4');
    expect(await verb.exited).toEqual([0, null]);
  });

  test('with QEMU: a server that is killed behind it has no successor', async () => {
    const { verb, server, qemu } = await startHolding();
    process.kill(qemu, 'SIGKILL');
    expect(await verb.next()).toBe('killed 9');
    process.kill(server, 'SIGKILL');
    expect(await verb.next()).toBe('server-killed 9');
    expect(await verb.exited).toEqual([0, null]);
  });

  test('with QEMU, at once when there is no server', async () => {
    const { verb, qemu } = await startHolding();
    verb.order('process.exit(3)');
    expect(await verb.next()).toBe('server-ended 3');
    process.kill(qemu, 'SIGKILL');
    expect(await verb.next()).toBe('killed 9');
    expect(await verb.exited).toEqual([0, null]);
  });

  test('with a verb that leaves before the start, or in the middle of it, and its server with it', async () => {
    for (const said of [Buffer.alloc(0), startMessage(['/', '/dev/null', ...IDLE]).subarray(0, -1)]) {
      const verb = startKeeper(shell("trap '' TERM HUP INT; while :; do sleep 1; done"));
      const server = await verb.pidOf('server');
      verb.line.end(said);
      expect(await verb.next()).toBe('server-killed 9');
      expect(await verb.exited).toEqual([0, null]);
      expect(isAlive(server)).toBe(false);
    }
  });

  test('with a verb that leaves after a QEMU that could not be started', async () => {
    const verb = startKeeper(IDLE);
    await verb.pidOf('server');
    verb.start(['/nowhere/qemu']);
    await verb.next();
    verb.line.end();
    expect(await verb.next()).toBe('server-killed 9');
    expect(await verb.exited).toEqual([0, null]);
  });

  test.each([
    ['longer than 8 MiB', Buffer.from([0, 0x80, 0, 1])],
    ['empty', Buffer.alloc(4)],
    ['without a program', startMessage(['/', '/dev/null'])],
    ['without the last NUL', Buffer.from('\0\0\0\x0f/\0/dev/null\0/a/', 'latin1')],
  ])('with an error, and its server, when the start message is %s', async (_, message) => {
    const verb = startKeeper(IDLE);
    await verb.pidOf('server');
    verb.line.write(message);
    expect(await verb.next()).toBe('server-killed 9');
    expect(await verb.exited).toEqual([1, null]);
  });

  test.each([
    ['exits with 0', shell('exit 0'), 'server-ended 0', 0],
    ['exits with 3', shell('exit 3'), 'server-ended 3', 1],
    ['is killed', shell('kill -9 $$'), 'server-killed 9', 1],
    ['cannot be executed', ['/nowhere/server'], 'server-ended 127', 1],
  ])('with a server that %s before there is a QEMU', async (_, server, said, code) => {
    const verb = startKeeper(server);
    await verb.pidOf('server');
    expect(await verb.next()).toBe(said);
    expect(await verb.exited).toEqual([code, null]);
  });
});

describe('vmckpt-keeper lives on', () => {
  test('when it is told to end, and leads a session of its own', async () => {
    const { verb, server } = await startHolding();
    const keeper = verb.process.pid!;
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGPIPE'] as const) verb.process.kill(signal);
    process.kill(server, 'SIGKILL');
    expect(await verb.next()).toBe('server-killed 9');
    await verb.pidOf('server');
    expect(readFileSync(`/proc/${keeper}/stat`, 'utf8').split(') ')[1]!.split(' ')[3]).toBe(String(keeper));
    expect(Number(status(keeper, 'VmHWM'))).toBeLessThan(3000);
    expect(status(keeper, 'Threads')).toBe('1');
  });

  test('when the verb has left: a server is still started again', async () => {
    const { verb, server, qemu, peer } = await startHolding();
    verb.line.destroy();
    process.kill(server, 'SIGKILL');
    const successor = await verb.ask('process.pid');
    expect(successor).not.toBe(server);
    expect(isAlive(qemu)).toBe(true);
    expect(peer.readableEnded).toBe(false);
    verb.order('process.exit(0)');
    expect(await verb.exited).toEqual([0, null]);
  });

  test('after 20 servers in a row that were killed, until SIGUSR1', async () => {
    // The first one waits for its QEMU.
    const verb = startKeeper(shell('[ "$1" = --successor ] || read -r word <&3; kill -9 $$'));
    await verb.pidOf('server');
    verb.start(IDLE);
    const qemu = await verb.pidOf('started');
    verb.serverLine.write('go\n');
    const round = async () => {
      for (let successor = 1; successor <= 20; successor++) {
        expect(await verb.next()).toBe('server-killed 9');
        await verb.pidOf('server');
      }
      expect(await verb.next()).toBe('server-killed 9');
    };
    await round();
    // Nothing but SIGUSR1 starts another one.
    await new Promise((resolve) => setTimeout(resolve, 200));
    verb.process.kill('SIGUSR1');
    await verb.pidOf('server');
    await round();
    process.kill(qemu, 'SIGKILL');
    expect(await verb.next()).toBe('killed 9');
    expect(await verb.exited).toEqual([0, null]);
  });
});

test('vmckpt-keeper says that it is not for people', async () => {
  for (const args of [[], ['--help']]) {
    const child = spawn(KEEPER_PATH, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    const said = buffer(child.stderr);
    expect(await once(child, 'exit')).toEqual([2, null]);
    expect((await said).toString()).toContain('vmckpt restore');
  }
});
