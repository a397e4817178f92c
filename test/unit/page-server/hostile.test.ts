/**
 * Peers that do not keep to the protocol: a few thousand mutated frames here, VMCKPT_MUTATED_FRAMES=100000 in the soak. Slow,
 * silent and half-open ones.
 */
import net from 'node:net';
import path from 'node:path';
import { duplexPair, type Duplex } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { collectGarbage } from '../../../src/bench/garbage.js';
import { parseAddress } from '../../../src/page-server/address.js';
import { Connection } from '../../../src/page-server/client/connection.js';
import { DirectoryStore } from '../../../src/page-server/directory-store.js';
import { ServerCounters } from '../../../src/page-server/server/counters.js';
import { ServedConnection } from '../../../src/page-server/server/served-connection.js';
import { HEADER_BYTES, encodeFrame, encodeHeader } from '../../../src/page-server/wire/frame.js';
import {
  FEATURES,
  REPLY_TYPES,
  VERSIONS,
  encodeRequest,
  encodeResult,
} from '../../../src/page-server/wire/messages.js';
import type { RequestBody, RequestKind } from '../../../src/page-server/wire/messages.js';
import { Random, chooseSeed } from '../../support/faults.js';
import { format2Manifest } from '../../support/packs.js';
import { runPageServer } from '../../support/page-servers.js';
import { storeGeneration } from '../../support/stored.js';
import { until } from '../../support/until.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const FRAMES = Number(process.env['VMCKPT_MUTATED_FRAMES'] ?? 3000);
/** What connections that have ended may leave behind, all together. */
const MAX_LEFT_BYTES = 32 << 20;
const PATIENCE = { helloMs: 500, idleMs: 500, stallMs: 500 };

let storeDir: string;
let packId: string;

beforeEach(async () => {
  storeDir = path.join(temporaryDir(), 'store');
  const dir = await storeGeneration(storeDir, 'web');
  packId = format2Manifest(dir).packs[0]!.id;
});

function frame<K extends RequestKind>(id: number, kind: K, body: RequestBody<K>): Buffer {
  const { type, payload } = encodeRequest(kind, body);
  return encodeFrame({ type, id, more: false }, payload);
}

const HELLO = () => frame(1, 'hello', { versions: VERSIONS, features: [...FEATURES], agent: 'test' });

/** Every request but those that change the store. */
function conversation(): Buffer[] {
  const handle = 1;
  return [
    HELLO(),
    frame(2, 'open', { reference: 'web@1' }),
    frame(3, 'read', { packId, offset: 0, length: 9000, lane: 'demand', deadlineMs: 0 }),
    frame(4, 'readFile', { handle, file: 'device-state', offset: 0, length: 100, lane: 'rest' }),
    frame(5, 'list', {}),
    frame(6, 'have', { packIds: [packId] }),
    frame(7, 'ping', {}),
    frame(8, 'cancel', { target: 3 }),
    frame(9, 'push', { name: 'db', number: 1, id: 'a'.repeat(32) }),
    frame(10, 'received', { handle: 2, file: 'device-state' }),
    frame(11, 'put', { handle: 2, file: 'device-state', offset: 0, bytes: Buffer.alloc(100, 1) }),
    frame(12, 'commit', { handle: 2 }),
    frame(13, 'statistics', {}),
    frame(14, 'close', { handle }),
  ];
}

/** Half of them get a header that is right, so that what is behind it is looked at. */
function mutated(original: Buffer, random: Random): Buffer {
  const bytes = Buffer.from(original);
  const times = 1 + Math.floor(random.next() * 4);
  for (let count = 0; count < times; count++)
    bytes[Math.floor(random.next() * bytes.length)] = Math.floor(random.next() * 256);
  if (random.next() < 0.3) return bytes.subarray(0, Math.floor(random.next() * bytes.length));
  if (random.next() < 0.5) return bytes;
  const payload = bytes.subarray(HEADER_BYTES);
  const head = { type: bytes[0]!, id: bytes.readUInt32LE(4), more: random.next() < 0.1 };
  const length = random.next() < 0.2 ? Math.floor(random.next() * 2 ** 32) : payload.length;
  return Buffer.concat([encodeHeader(head, length), payload]);
}

/** With one frame in it that is mutated, and perhaps others twice, or not at all. */
function mutatedConversation(frames: readonly Buffer[], random: Random): Buffer {
  const at = Math.floor(random.next() * frames.length);
  const parts = frames.flatMap((whole, index) =>
    index === at
      ? [mutated(whole, random)]
      : random.next() < 0.05
        ? []
        : random.next() < 0.05
          ? [whole, whole]
          : [whole],
  );
  return Buffer.concat(parts);
}

function writePieces(stream: Duplex, bytes: Buffer, random: Random): void {
  for (let from = 0; from < bytes.length;) {
    const length = 1 + Math.floor(random.next() * bytes.length);
    stream.write(bytes.subarray(from, from + length));
    from += length;
  }
}

async function serveOn(stream: Duplex, counters = new ServerCounters()): Promise<ServedConnection> {
  return new ServedConnection(stream, {
    store: await DirectoryStore.open(storeDir),
    access: () => true,
    features: FEATURES,
    patience: { helloMs: 60_000, idleMs: 60_000, stallMs: 60_000 },
    counters,
    agent: 'test',
  });
}

/** Without garbage, whenever that is collected. */
async function liveBytes(): Promise<number> {
  // What has ended a moment ago still waits for its turn.
  await setImmediate();
  collectGarbage();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

describe('mutated frames', () => {
  it('harm neither the server nor its other clients', async () => {
    const seed = chooseSeed();
    const random = new Random(seed);
    const frames = conversation();
    const counters = new ServerCounters();
    const beforeBytes = await liveBytes();
    for (let count = 0; count < FRAMES; count++) {
      const [client, server] = duplexPair();
      client.on('error', () => undefined).resume();
      const served = await serveOn(server, counters);
      writePieces(client, mutatedConversation(frames, random), random);
      client.end();
      await served.closed;
    }
    const leftBytes = (await liveBytes()) - beforeBytes;
    expect({ seed, isBounded: leftBytes < MAX_LEFT_BYTES }).toEqual({ seed, isBounded: true });
    const store = await DirectoryStore.open(storeDir);
    onTestFinished(() => store.close());
    expect((await store.list()).map(({ name }) => name)).toEqual(['web']);
    await store.remove('web@1');
  });

  it('make a client fail, and nothing else', async () => {
    const seed = chooseSeed();
    const random = new Random(seed);
    const replies = await recordedReplies();
    const beforeBytes = await liveBytes();
    for (let count = 0; count < FRAMES; count++) {
      const [client, server] = duplexPair();
      server.on('error', () => undefined).resume();
      const settled = askEverything(client);
      writePieces(server, mutatedConversation(replies, random), random);
      server.end();
      for (const result of await settled)
        if (result.status === 'rejected')
          expect([seed, (result.reason as Error).name]).toEqual([seed, 'VmckptError']);
    }
    const leftBytes = (await liveBytes()) - beforeBytes;
    expect({ seed, isBounded: leftBytes < MAX_LEFT_BYTES }).toEqual({ seed, isBounded: true });
  });

  /** The frames that a server sends to `askEverything`. */
  async function recordedReplies(): Promise<Buffer[]> {
    const [client, between] = duplexPair();
    const [other, server] = duplexPair();
    const sent: Buffer[] = [];
    between.pipe(other);
    other.on('data', (chunk: Buffer) => {
      sent.push(chunk);
      between.write(chunk);
    });
    const served = await serveOn(server);
    expect((await askEverything(client)).every(({ status }) => status === 'fulfilled')).toBe(true);
    server.destroy();
    await served.closed;
    return framesOf(Buffer.concat(sent));
  }

  function framesOf(bytes: Buffer): Buffer[] {
    const frames: Buffer[] = [];
    for (let from = 0; from < bytes.length;) {
      const end = from + HEADER_BYTES + bytes.readUInt32LE(from + 8);
      frames.push(bytes.subarray(from, end));
      from = end;
    }
    return frames;
  }

  async function askEverything(stream: Duplex): Promise<PromiseSettledResult<unknown>[]> {
    const options = { label: 'test', agent: 'test', patience: { helloMs: 60_000, silenceMs: 60_000 } };
    const [opened] = await Promise.allSettled([Connection.open(stream, options)]);
    if (opened.status === 'rejected') return [opened];
    const connection = opened.value;
    const handle = 1;
    const settled = await Promise.allSettled([
      connection.request('open', { reference: 'web@1' }),
      connection.request('list', {}),
      connection.request('have', { packIds: [packId] }),
      connection.request('statistics', {}),
      connection.request('readFile', { handle, file: 'device-state', offset: 0, length: 9, lane: 'demand' }),
    ]);
    connection.close();
    return settled;
  }
});

describe('a client', () => {
  async function running() {
    const { address, server, connect } = await runPageServer(storeDir, 'unix', { patience: PATIENCE });
    const { path: socketPath } = parseAddress(address) as { readonly path: string };
    const dial = () => {
      const socket = net.connect(socketPath);
      socket.on('error', () => undefined);
      onTestFinished(() => void socket.destroy());
      return socket;
    };
    return { server, dial, connect };
  }

  const isDropped = (socket: net.Socket) => until('the connection to end', () => socket.closed);

  it.each(['says nothing', 'stops within a frame', 'says hello and no more'])(
    'that %s is dropped',
    async (what) => {
      const { dial, server } = await running();
      const socket = dial();
      socket.resume();
      if (what === 'stops within a frame') socket.write(HELLO().subarray(0, 20));
      if (what === 'says hello and no more') socket.write(HELLO());
      await isDropped(socket);
      await until('it to be gone', () => server.counters.connections === 0);
      expect(server.counters.droppedConnections).toBe(1);
    },
  );

  it('that takes no answers is dropped, while others are served', async () => {
    const large = format2Manifest(await storeGeneration(storeDir, 'large', { pageCount: 4096 })).packs[0]!;
    const { dial, server, connect } = await running();
    const slow = dial();
    const length = Math.min(large.fileBytes, 8 << 20);
    slow.write(HELLO());
    slow.write(frame(2, 'open', { reference: 'large@1' }));
    for (let id = 3; id < 100; id++)
      slow.write(frame(id, 'read', { packId: large.id, offset: 0, length, lane: 'rest', deadlineMs: 0 }));
    const pings = setInterval(() => slow.write(frame(1000, 'ping', {})), 50);
    onTestFinished(() => clearInterval(pings));
    const store = connect();
    await store.open('web');
    await until('the slow one to be dropped', async () => {
      expect(await store.read({ packId, offset: 0, length: 4096 }, { lane: 'demand' })).toHaveLength(4096);
      return server.counters.droppedConnections === 1;
    });
  });

  it('goes on when it is alive but has nothing to ask', async () => {
    const { connect, server } = await running();
    const store = connect();
    await store.list();
    await until('some pings', () => server.counters.receivedBytes > 500);
    expect(server.counters).toMatchObject({ droppedConnections: 0, acceptedConnections: 1 });
  });

  it('is told that a server goes away, and gets the answers that are under way', async () => {
    const { connect, server } = await running();
    const store = connect();
    await store.open('web');
    const reads = Array.from({ length: 50 }, () =>
      store.read({ packId, offset: 0, length: 9000 }, { lane: 'demand' }),
    );
    await until('them to be asked', () => server.counters.receivedBytes > 2000);
    await server.close(60_000);
    for (const read of await Promise.all(reads)) expect(read).toHaveLength(9000);
    await expect(store.list()).rejects.toMatchObject({ code: 'SOURCE_UNAVAILABLE' });
  });

  it('leaves no timer when a server answers hello and is malformed in one piece', async () => {
    const [client, server] = duplexPair();
    const timers = vi.spyOn(globalThis, 'setInterval');
    onTestFinished(() => timers.mockRestore());
    const options = { label: 'test', agent: 'test', patience: { helloMs: 60_000, silenceMs: 60_000 } };
    const opening = Connection.open(client, options);
    const hello = encodeResult('hello', {
      ...{ version: 1, features: [], agent: 'test', idleMs: 60_000 },
      ...{ maxRequests: 1, maxHandles: 1 },
    });
    const answer = encodeFrame({ type: REPLY_TYPES.result, id: 1, more: false }, hello);
    server.write(Buffer.concat([answer, Buffer.alloc(HEADER_BYTES, 1)]));
    expect((await opening).isOpen).toBe(false);
    expect(timers).not.toHaveBeenCalled();
  });

  it('gives up on a server that is silent', async () => {
    const silent = net.createServer((socket) => socket.resume());
    const socketPath = path.join(temporaryDir(), 'silent.sock');
    silent.listen(socketPath);
    onTestFinished(() => void silent.close());
    const { connectStore } = await import('../../../src/page-server/client/server-store.js');
    const store = connectStore(`unix:${socketPath}`, { patience: { helloMs: 100 } });
    onTestFinished(() => store.close());
    await expect(store.list()).rejects.toMatchObject({ code: 'SOURCE_UNAVAILABLE' });
  });
});
