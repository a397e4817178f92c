import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { describe, expect, onTestFinished, test } from 'vitest';
import * as native from '../../../src/native/index.js';
import { substitutes } from '../../../src/native/substitutes.js';

function directory(): string {
  const made = mkdtempSync(path.join(tmpdir(), 'vmckpt-'));
  onTestFinished(() => rmSync(made, { recursive: true }));
  return made;
}

function open(file: string, flags = 'a+'): number {
  const fd = openSync(file, flags);
  onTestFinished(() => closeSync(fd));
  return fd;
}

async function connection(): Promise<{ client: Socket; accepted: Socket }> {
  const socketPath = path.join(directory(), 'socket');
  const server = createServer({ pauseOnConnect: true }).listen(socketPath);
  await once(server, 'listening');
  const client = connect(socketPath);
  const [[accepted]] = (await Promise.all([once(server, 'connection'), once(client, 'connect')])) as [
    [Socket],
    unknown,
  ];
  onTestFinished(() => {
    client.destroy();
    accepted.destroy();
    server.close();
  });
  return { client, accepted };
}

function descriptorOf(socket: Socket): number {
  return (socket as unknown as { _handle: { fd: number } })._handle.fd;
}

describe('the substitutes of the addon', () => {
  test('hash as it does, whatever the bytes and the range', () => {
    const range = fc
      .uint8Array({ maxLength: 70_000, size: 'max' })
      .chain((bytes) => fc.tuple(fc.constant(bytes), fc.nat(bytes.length), fc.nat(bytes.length)));
    fc.assert(
      fc.property(range, ([bytes, one, other]) => {
        const [start, end] = [Math.min(one, other), Math.max(one, other)];
        expect(substitutes.xxh3(bytes, start, end)).toBe(native.xxh3(bytes, start, end));
      }),
    );
    for (let length = 0; length <= 600; length++) {
      const bytes = Buffer.alloc(length, `${length}`);
      expect(substitutes.xxh3(bytes, 0, length)).toBe(native.xxh3(bytes));
    }
    const shared = new Uint8Array(new SharedArrayBuffer(4096)).fill(7);
    expect(substitutes.xxh3(shared, 1, 4000)).toBe(native.xxh3(shared, 1, 4000));
  });

  test('take the same locks, and see them', () => {
    const file = path.join(directory(), 'lock');
    const ours = openSync(file, 'a+');
    const theirs = open(file);
    expect(native.isFileLocked(theirs)).toBe(false);
    expect(substitutes.tryLockFile(ours)).toBe(true);
    expect(substitutes.tryLockFile(ours), 'once more').toBe(true);
    expect(native.tryLockFile(theirs)).toBe(false);
    expect(native.isFileLocked(theirs)).toBe(true);
    expect(substitutes.isFileLocked(ours), 'by somebody else').toBe(false);
    closeSync(ours);
    expect(native.tryLockFile(theirs)).toBe(true);
    const again = open(file);
    for (const { isFileLocked } of [native, substitutes])
      expect([isFileLocked(again), isFileLocked(again, 101)]).toEqual([true, true]);
    expect(substitutes.tryLockFile(again)).toBe(false);
  });

  test('need a descriptor that may write, to lock, and any to ask', () => {
    const file = path.join(directory(), 'lock');
    open(file);
    const readOnly = open(file, 'r');
    const refusal = expect.objectContaining({ code: 'EBADF', syscall: 'fcntl' }) as Error;
    expect(() => substitutes.tryLockFile(readOnly)).toThrow(refusal);
    expect(substitutes.isFileLocked(readOnly)).toBe(false);
  });

  test('know who is at the other end of a socket, and leave it non-blocking', async () => {
    const { client } = await connection();
    const fd = descriptorOf(client);
    expect(substitutes.peerCredentials(fd)).toEqual(native.peerCredentials(fd));
    expect(native.readAvailable(fd, Buffer.alloc(1))).toBeUndefined();
    const file = open(path.join(directory(), 'file'));
    expect(() => substitutes.peerCredentials(file)).toThrow(
      expect.objectContaining({ code: 'ENOTSOCK', syscall: 'getsockopt' }),
    );
  });

  test('send a descriptor along with a message', async () => {
    const { client, accepted } = await connection();
    const file = openSync(path.join(directory(), 'file'), 'w+');
    const payload = Buffer.from('{"execute": "getfd"}\n');
    substitutes.sendFds(descriptorOf(client), payload, [file]);
    closeSync(file);
    const limits = { maxBytes: 100, maxFds: 2, timeoutMs: 1000 };
    const received = await native.receiveFds(descriptorOf(accepted), limits);
    expect(received.payload).toEqual(payload);
    expect(received.fds.length).toBe(1);
    expect(writeSync(received.fds[0]!, 'abc')).toBe(3);
    closeSync(received.fds[0]!);
    expect(() => substitutes.sendFds(open(path.join(directory(), 'file')), payload, [0])).toThrow(
      expect.objectContaining({ code: 'ENOTSOCK', syscall: 'sendmsg' }),
    );
  });

  test('make pipes that can be read as far as they are full', () => {
    const [readEnd, writeEnd] = substitutes.makePipe(1 << 20);
    onTestFinished(() => closeSync(readEnd));
    const into = Buffer.alloc(10);
    expect(substitutes.readAvailable(readEnd, into)).toBe(-1);
    writeSync(writeEnd, 'abc');
    expect(substitutes.readAvailable(readEnd, into)).toBe(3);
    closeSync(writeEnd);
    expect(substitutes.readAvailable(readEnd, into)).toBe(0);
  });

  test('take a hole of a file for the zeros in it', () => {
    const fd = open(path.join(directory(), 'sparse'), 'w+');
    ftruncateSync(fd, 1 << 20);
    expect(substitutes.nextData(fd, 4096)).toBe(4096);
    expect(substitutes.nextData(fd, 1 << 20)).toBe(-1);
  });
});
