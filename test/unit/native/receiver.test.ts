import { spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { describe, expect, onTestFinished, test } from 'vitest';
import { makePipe, RECEIVER_PATH } from '../../../src/native/index.js';
import { printed } from './temporary.js';

const ADDON_PATH = path.join(path.dirname(RECEIVER_PATH), 'vmckpt_native.node');
/** Far more than a pipe holds: a writer gets through it only if somebody reads. */
const STREAM = Buffer.alloc(24 << 20, 'migration stream ');

interface Receiver {
  readonly process: ChildProcess;
  /** QEMU's end. */
  readonly qemu: net.Socket;
  /** [code, signal] once it has ended. */
  readonly exited: Promise<unknown[]>;
}

/** Its standard input is the consumer. */
function startReceiver(): Receiver {
  const { readEnd, writeEnd } = makePipe(1 << 20);
  const process = spawn(RECEIVER_PATH, [], { stdio: ['pipe', 'ignore', 'inherit', readEnd] });
  closeSync(readEnd);
  const exited = once(process, 'exit');
  const qemu = new net.Socket({ fd: writeEnd, readable: false });
  onTestFinished(async () => {
    qemu.destroy();
    process.kill('SIGKILL');
    await exited;
  });
  return { process, qemu, exited };
}

/** Plays QEMU: resolves when all of STREAM has been written and nobody hung up; rejects with EPIPE otherwise. */
async function writeStream({ qemu }: Receiver): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    qemu.on('error', reject);
    qemu.write(STREAM, (error) => (error ? reject(error) : qemu.end(resolve)));
  });
}

/** A vmckpt that starts a receiver, reads a little of the stream and goes no further; killed with -9 by the tests. */
async function startStallingConsumer(): Promise<ChildProcessByStdio<null, Readable, null>> {
  const source = `
    const native = require(${JSON.stringify(ADDON_PATH)});
    const [readEnd, writeEnd] = native.makePipe(65536);
    const { spawn } = require('node:child_process');
    const stdio = ['pipe', 'ignore', 'inherit', readEnd];
    const receiver = spawn(${JSON.stringify(RECEIVER_PATH)}, [], { detached: true, stdio });
    const qemu = spawn('sh', ['-c', 'head -c 24000000 /dev/zero && echo written >&2'], {
      stdio: ['ignore', writeEnd, 1],
    });
    require('node:fs').closeSync(writeEnd);
    const into = Buffer.alloc(4096);
    while (native.readAvailable(readEnd, into) <= 0);
    console.log('reading', receiver.pid);
    setInterval(() => {}, 1000);`;
  const consumer = spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void consumer.kill('SIGKILL'));
  return consumer;
}

describe('vmckpt-receiver', () => {
  test('leaves the stream to a consumer that lives, and ends with both of them', async () => {
    const receiver = startReceiver();
    receiver.qemu.write('untouched');
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(receiver.process.exitCode).toBe(null);
    receiver.process.stdin!.end();
    receiver.qemu.end();
    expect(await receiver.exited).toEqual([0, null]);
  });

  test('reads the stream to its end once the consumer is gone', async () => {
    const receiver = startReceiver();
    const written = writeStream(receiver);
    receiver.process.stdin!.destroy();
    await written;
    expect(await receiver.exited).toEqual([0, null]);
  });

  test('reads the stream to its end when the consumer is killed while reading', async () => {
    const consumer = await startStallingConsumer();
    const said = buffer(consumer.stdout);
    await printed(consumer.stdout, 'reading');
    consumer.kill('SIGKILL');
    expect((await said).toString()).toContain('written');
  });

  test('survives the signals that end its parents, leads a session of its own, and stays small', async () => {
    const receiver = startReceiver();
    const stat = () => readFileSync(`/proc/${receiver.process.pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    await expect.poll(() => Number(stat()[3])).toBe(receiver.process.pid);
    await expect.poll(() => stat()[0]).toBe('S');
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGPIPE'] as const) receiver.process.kill(signal);
    receiver.process.stdin!.destroy();
    await new Promise<void>((resolve, reject) => {
      receiver.qemu.write(STREAM, (error) => (error ? reject(error) : resolve()));
    });
    const status = readFileSync(`/proc/${receiver.process.pid}/status`, 'utf8');
    expect(Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1])).toBeLessThan(2500);
    expect(/Threads:\s+(\d+)/.exec(status)?.[1]).toBe('1');
    receiver.qemu.end();
    expect(await receiver.exited).toEqual([0, null]);
  });

  test('says that it is not for people', async () => {
    const child = spawn(RECEIVER_PATH, ['--help'], { stdio: ['ignore', 'ignore', 'pipe'] });
    const said = buffer(child.stderr);
    expect(await once(child, 'exit')).toEqual([2, null]);
    expect((await said).toString()).toContain('vmckpt save');
  });
});
