import { closeSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  connectUnix,
  MAX_FDS_PER_MESSAGE,
  MAX_SEND_BYTES,
  peerCredentials,
  receiveFds,
  sendFds,
} from '../../../src/native/index.js';
import { temporaryDirectory } from './temporary.js';

const LIMITS = { maxBytes: 4096, maxFds: 8, timeoutMs: 10_000 };

interface Pair {
  readonly near: number;
  readonly far: number;
  /** Ends the far side. */
  readonly hangUp: () => void;
}

/** The two ends of a real connection; Node accepts but never reads it. */
async function connectedPair(): Promise<Pair> {
  const socketPath = path.join(temporaryDirectory(), 'socket');
  const server = net.createServer({ pauseOnConnect: true });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  const accepted = new Promise<net.Socket>((resolve) => server.once('connection', resolve));
  const near = connectUnix(socketPath);
  const socket = await accepted;
  server.close();
  onTestFinished(() => {
    socket.destroy();
    closeSync(near);
  });
  const { _handle } = socket as unknown as { _handle: { fd: number } };
  return { near, far: _handle.fd, hangUp: () => socket.destroy() };
}

function temporaryFile(contents: string): number {
  const file = path.join(temporaryDirectory(), 'file');
  writeFileSync(file, contents);
  const fd = openSync(file, 'r');
  onTestFinished(() => closeSync(fd));
  return fd;
}

describe('connectUnix', () => {
  test('names the system call and the reason when nobody listens', () => {
    const missing = path.join(temporaryDirectory(), 'missing');
    expect(() => connectUnix(missing)).toThrow(
      expect.objectContaining({ code: 'ENOENT', errno: -2, syscall: 'connect' }),
    );
  });

  test('takes a path of 107 bytes and refuses one of 108', async () => {
    const directory = temporaryDirectory();
    const longest = path.join(directory, 'x'.repeat(107 - directory.length - 1));
    const server = net.createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(longest, resolve));
    onTestFinished(() => void server.close());
    closeSync(connectUnix(longest));
    expect(() => connectUnix(`${longest}x`)).toThrow(expect.objectContaining({ code: 'ENAMETOOLONG' }));
  });

  test('refuses a path that C would cut short', () => {
    expect(() => connectUnix('/tmp/a\0b')).toThrow(TypeError);
  });
});

describe('peerCredentials', () => {
  test('tells who is at the other end', async () => {
    const { near } = await connectedPair();
    const self = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() };
    expect(peerCredentials(near)).toEqual(self);
  });

  test('fails with ENOTSOCK for a file', () => {
    expect(() => peerCredentials(temporaryFile(''))).toThrow(expect.objectContaining({ code: 'ENOTSOCK' }));
  });
});

describe('sendFds and receiveFds', () => {
  test('carry bytes and descriptors together', async () => {
    const { near, far } = await connectedPair();
    sendFds(near, Buffer.from('hello'), [temporaryFile('first'), temporaryFile('second')]);
    const { payload, fds } = await receiveFds(far, LIMITS);
    expect(payload.toString()).toBe('hello');
    expect(fds.map((fd) => readFileSync(fd, 'utf8'))).toEqual(['first', 'second']);
    for (const fd of fds) {
      const flags = /flags:\s+([0-7]+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '';
      expect(parseInt(flags, 8) & 0o2000000, 'close-on-exec').not.toBe(0);
      closeSync(fd);
    }
  });

  test('wait for a message that is sent later', async () => {
    const { near, far } = await connectedPair();
    const received = receiveFds(far, LIMITS);
    setTimeout(() => sendFds(near, Buffer.from('later'), []), 20);
    expect((await received).payload.toString()).toBe('later');
  });

  test('give an empty payload at the end of the stream', async () => {
    const { near, hangUp } = await connectedPair();
    hangUp();
    expect(await receiveFds(near, LIMITS)).toEqual({ payload: Buffer.alloc(0), fds: [] });
  });

  test('reject with ETIMEDOUT when nothing comes', async () => {
    const { near } = await connectedPair();
    await expect(receiveFds(near, { ...LIMITS, timeoutMs: 10 })).rejects.toMatchObject({ code: 'ETIMEDOUT' });
  });

  test('reject with the reason of their signal, before and during the wait, and leave the bytes', async () => {
    const { near, far } = await connectedPair();
    const reason = new Error('no longer wanted');
    const controller = new AbortController();
    const received = receiveFds(far, { ...LIMITS, signal: controller.signal });
    setTimeout(() => controller.abort(reason), 10);
    await expect(received).rejects.toBe(reason);
    await expect(receiveFds(far, { ...LIMITS, signal: controller.signal })).rejects.toBe(reason);
    sendFds(near, Buffer.from('kept'), []);
    expect((await receiveFds(far, LIMITS)).payload.toString()).toBe('kept');
  });

  test('leave no listener behind', async () => {
    const { near, far } = await connectedPair();
    const before = process.listenerCount('exit');
    sendFds(near, Buffer.from('x'), []);
    await receiveFds(far, LIMITS);
    expect(process.listenerCount('exit')).toBe(before);
  });

  test.each([0, 1, 2, 3])('close what is beyond a limit of %i descriptors', async (maxFds) => {
    const { near, far } = await connectedPair();
    const file = temporaryFile('');
    const before = openDescriptors();
    sendFds(near, Buffer.from('x'), [file, file, file, file]);
    const { fds } = await receiveFds(far, { ...LIMITS, maxFds });
    expect(fds).toHaveLength(maxFds);
    expect(openDescriptors()).toBe(before + maxFds);
    for (const fd of fds) closeSync(fd);
  });

  test('carry as many descriptors and bytes as they promise', async () => {
    const { near, far } = await connectedPair();
    const file = temporaryFile('');
    const payload = Buffer.alloc(MAX_SEND_BYTES, 7);
    sendFds(
      near,
      payload,
      Array.from({ length: MAX_FDS_PER_MESSAGE }, () => file),
    );
    const limits = { ...LIMITS, maxBytes: MAX_SEND_BYTES, maxFds: MAX_FDS_PER_MESSAGE };
    const received = await receiveFds(far, limits);
    for (const fd of received.fds) closeSync(fd);
    expect(received.payload).toEqual(payload);
    expect(received.fds).toHaveLength(MAX_FDS_PER_MESSAGE);
  });

  test('keep to their limits', async () => {
    const { near } = await connectedPair();
    expect(() => sendFds(near, new Uint8Array(0), [])).toThrow(RangeError);
    expect(() => sendFds(near, new Uint8Array(MAX_SEND_BYTES + 1), [])).toThrow(RangeError);
    expect(() => sendFds(near, Buffer.from('x'), [-1])).toThrow(RangeError);
    await expect(receiveFds(near, { ...LIMITS, maxBytes: 0 })).rejects.toThrow(RangeError);
    await expect(receiveFds(near, { ...LIMITS, maxFds: 254 })).rejects.toThrow(RangeError);
    await expect(receiveFds(near, { ...LIMITS, timeoutMs: Infinity })).rejects.toThrow(RangeError);
  });

  test('fail with EPIPE, and no signal, when the other end is gone', async () => {
    const { near, hangUp } = await connectedPair();
    hangUp();
    await new Promise((resolve) => setImmediate(resolve));
    expect(() => sendFds(near, Buffer.from('x'), [])).toThrow(expect.objectContaining({ code: 'EPIPE' }));
  });

  test('keep waiting on the right connection when its descriptor is closed meanwhile', async () => {
    const { near, far } = await connectedPair();
    sendFds(near, Buffer.from('x'), [far]);
    const [copy] = (await receiveFds(far, LIMITS)).fds;
    if (copy === undefined) throw new Error('no descriptor came');
    const received = receiveFds(copy, LIMITS);
    closeSync(copy);
    sendFds(near, Buffer.from('still here'), []);
    expect((await received).payload.toString()).toBe('still here');
  });
});

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}
