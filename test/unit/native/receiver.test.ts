import { spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, expect, onTestFinished, test } from 'vitest';
import { connectUnix, receiveFds, RECEIVER_PATH, sendFds } from '../../../src/native/index.js';
import { printed, temporaryDirectory } from './temporary.js';

const ADDON_PATH = path.join(path.dirname(RECEIVER_PATH), 'vmckpt_native.node');
/** Far more than the socket buffers hold: a writer gets through it only if somebody reads. */
const STREAM = Buffer.alloc(24 << 20, 'migration stream ');
const DONE = Buffer.from('D');

interface Receiver {
  readonly process: ChildProcess;
  readonly data: string;
  readonly handoff: string;
  /** [code, signal] once it has ended. */
  readonly exited: Promise<unknown[]>;
}

async function startReceiver(): Promise<Receiver> {
  const directory = temporaryDirectory();
  const data = path.join(directory, 'data');
  const handoff = path.join(directory, 'handoff');
  const process = spawn(RECEIVER_PATH, [data, handoff], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(process, 'exit');
  onTestFinished(async () => {
    process.kill('SIGKILL');
    await exited;
  });
  await printed(process.stdout, 'ready\n');
  return { process, data, handoff, exited };
}

/** Plays QEMU: resolves when all of STREAM has been written and nobody hung up; rejects with EPIPE otherwise. */
async function writeStream(socket: net.Socket): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    socket.on('error', reject);
    socket.write(STREAM, (error) => (error ? reject(error) : socket.end(resolve)));
  });
}

async function connect(socketPath: string): Promise<net.Socket> {
  const socket = net.connect(socketPath);
  await once(socket, 'connect');
  onTestFinished(() => void socket.destroy());
  return socket;
}

/** A consumer that takes the stream, reads a little of it and goes no further; killed with -9 by the tests. */
async function startStallingConsumer({
  handoff,
}: Receiver): Promise<ChildProcessByStdio<null, Readable, null>> {
  const source = `
    const native = require(${JSON.stringify(ADDON_PATH)});
    const handoff = native.connectUnix(${JSON.stringify(handoff)});
    console.log('connected');
    native.receiveFds(handoff, 1, 1, 30000).message.then(({ fds }) => {
      const bytes = require('node:fs').readSync(fds[0], Buffer.alloc(65536));
      if (bytes > 0) console.log('reading');
    });
    setInterval(() => {}, 1000);`;
  const consumer = spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void consumer.kill('SIGKILL'));
  await printed(consumer.stdout, 'connected');
  return consumer;
}

describe('vmckpt-receiver', () => {
  test('hands the stream to the consumer, who reads all of it, and ends when told', async () => {
    const receiver = await startReceiver();
    const handoff = connectUnix(receiver.handoff);
    const written = writeStream(await connect(receiver.data));
    const { payload, fds } = await receiveFds(handoff, { maxBytes: 1, maxFds: 1, timeoutMs: 10_000 });
    expect(payload.toString()).toBe('S');
    const received = await buffer(createReadStream('', { fd: fds[0] ?? -1 }));
    await written;
    expect(received.equals(STREAM)).toBe(true);
    expect(receiver.process.exitCode).toBe(null);
    sendFds(handoff, DONE, []);
    expect(await receiver.exited).toEqual([0, null]);
    closeSync(handoff);
  });

  test('hands the stream over when QEMU comes first', async () => {
    const receiver = await startReceiver();
    const written = writeStream(await connect(receiver.data));
    const handoff = connectUnix(receiver.handoff);
    const { fds } = await receiveFds(handoff, { maxBytes: 1, maxFds: 1, timeoutMs: 10_000 });
    expect((await buffer(createReadStream('', { fd: fds[0] ?? -1 }))).length).toBe(STREAM.length);
    await written;
    closeSync(handoff);
    expect(await receiver.exited).toEqual([0, null]);
  });

  test('reads the stream to its end when the consumer is killed while reading', async () => {
    const receiver = await startReceiver();
    const consumer = await startStallingConsumer(receiver);
    const reading = printed(consumer.stdout, 'reading');
    const written = writeStream(await connect(receiver.data));
    await reading;
    consumer.kill('SIGKILL');
    await written;
    expect(await receiver.exited).toEqual([0, null]);
  });

  test('reads the stream to its end when the consumer is killed before QEMU connects', async () => {
    const receiver = await startReceiver();
    const consumer = await startStallingConsumer(receiver);
    consumer.kill('SIGKILL');
    await once(consumer, 'exit');
    await writeStream(await connect(receiver.data));
    expect(await receiver.exited).toEqual([0, null]);
  });

  test('reads the stream to its end when no consumer ever comes', async () => {
    const receiver = await startReceiver();
    await writeStream(await connect(receiver.data));
    expect(await receiver.exited).toEqual([0, null]);
    expect(existsSync(receiver.handoff)).toBe(false);
  });

  test('goes at once when the consumer is done before QEMU connects', async () => {
    const receiver = await startReceiver();
    const handoff = connectUnix(receiver.handoff);
    sendFds(handoff, DONE, []);
    expect(await receiver.exited).toEqual([0, null]);
    expect(existsSync(receiver.data)).toBe(false);
    closeSync(handoff);
  });

  test('survives the signals that end its parents, and stays small', async () => {
    const receiver = await startReceiver();
    const socket = await connect(receiver.data);
    const consumer = await startStallingConsumer(receiver);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGPIPE'] as const) receiver.process.kill(signal);
    consumer.kill('SIGKILL');
    socket.on('error', () => undefined);
    await new Promise<void>((resolve, reject) => {
      socket.write(STREAM, (error) => (error ? reject(error) : resolve()));
    });
    const status = readFileSync(`/proc/${receiver.process.pid}/status`, 'utf8');
    expect(Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1])).toBeLessThan(2500);
    expect(/Threads:\s+(\d+)/.exec(status)?.[1]).toBe('1');
    socket.end();
    expect(await receiver.exited).toEqual([0, null]);
  });

  test('leads a session of its own and holds no stream of its parent', async () => {
    const receiver = await startReceiver();
    if (receiver.process.stdout?.readableEnded === false) await once(receiver.process.stdout, 'end');
    const session = readFileSync(`/proc/${receiver.process.pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[3];
    expect(Number(session)).toBe(receiver.process.pid);
    for (const fd of [0, 1, 2])
      expect(statSync(`/proc/${receiver.process.pid}/fd/${fd}`).rdev).toBe(statSync('/dev/null').rdev);
  });

  test('makes sockets that only their owner may use, for one connection each', async () => {
    const receiver = await startReceiver();
    expect(statSync(receiver.data).mode & 0o777).toBe(0o600);
    expect(statSync(receiver.handoff).mode & 0o777).toBe(0o600);
    const handoff = connectUnix(receiver.handoff);
    await connect(receiver.data);
    await receiveFds(handoff, { maxBytes: 1, maxFds: 0, timeoutMs: 10_000 });
    expect(existsSync(receiver.data)).toBe(false);
    expect(existsSync(receiver.handoff)).toBe(false);
    closeSync(handoff);
  });

  test('says what is wrong when it cannot listen, and how it is used', async () => {
    const directory = temporaryDirectory();
    const run = async (args: string[]) => {
      const child = spawn(RECEIVER_PATH, args, { stdio: ['ignore', 'ignore', 'pipe'] });
      const said = buffer(child.stderr);
      const [code] = (await once(child, 'exit')) as [number];
      return { code, said: (await said).toString() };
    };
    expect(await run([])).toEqual({ code: 2, said: 'usage: vmckpt-receiver DATA_SOCKET HANDOFF_SOCKET\n' });
    const missing = path.join(directory, 'missing', 'data');
    expect(await run([missing, missing])).toEqual({
      code: 1,
      said: 'vmckpt-receiver: bind: No such file or directory\n',
    });
  });
});
