import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { PassThrough, Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { readManifest } from '../../../src/checkpoint/manifest.js';
import { VmckptError } from '../../../src/errors.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { temporaryDir } from '../checkpoint/synthetic.js';
import {
  buildStream,
  DEVICE_STATE,
  fullSection,
  SMALL_STREAM,
  type PageOp,
  type StreamParts,
} from '../migration-stream/streams.js';
import { exportTo, importPieces, readGeneration, readStream } from './machines.js';
import { ownPack } from '../../support/packs.js';

const LAYOUT = new RamLayout([
  { name: 'pc.ram', usedBytes: 600 * PAGE_BYTES },
  { name: 'pc.bios', usedBytes: 40 * PAGE_BYTES },
]);

/** Every page once, zero, one repeated byte or data; then some again. */
const everyPage: PageOp[] = Array.from({ length: LAYOUT.pageCount }, (_, page) =>
  page % 3 === 0 ? { page, fill: 0 } : page % 7 === 0 ? { page, fill: 0x5a } : { page, seed: page },
);
const someAgain: PageOp[] = [5, 6, 7, 8, 600].map((page) => ({ page, seed: page + 1 }));

const STREAMS: [string, StreamParts][] = [
  [
    'an ordinary stream',
    { layout: LAYOUT, parts: [everyPage.slice(0, 300), everyPage.slice(300), someAgain] },
  ],
  ['a background snapshot', { layout: LAYOUT, parts: [everyPage], background: true }],
  ['a stream without a description', { ...SMALL_STREAM, description: Buffer.alloc(0) }],
  ['a stream that lacks pages', SMALL_STREAM],
];

describe.each(STREAMS)('%s', (_title, parts) => {
  const stream = buildStream(parts);

  it('comes back whole from import and export, again and again', async () => {
    const dir = temporaryDir();
    const storeDir = path.join(dir, 'store');
    const expected = readStream(stream);
    await importPieces([stream.subarray(0, 777), stream.subarray(777)], { storeDir });
    expect(await readGeneration(storeDir)).toEqual(expected);

    const first = path.join(dir, 'first.stream');
    await exportTo(first, { storeDir });
    expect(readStream(readFileSync(first))).toEqual(expected);

    await importPieces([readFileSync(first)], { storeDir });
    expect(await readGeneration(storeDir, 2)).toEqual(expected);
    const second = path.join(dir, 'second.stream');
    await exportTo(second, { storeDir, reference: 'vm@2' });
    expect(readFileSync(second).equals(readFileSync(first))).toBe(true);
  });
});

describe('an import', () => {
  const stream = buildStream(SMALL_STREAM);

  it('reports sizes, and records what is known and what is not', async () => {
    const storeDir = temporaryDir();
    const report = await importPieces([stream], { storeDir, commandLine: ['-m', '64'] });
    const manifest = readManifest(path.join(storeDir, 'vm', '1'));
    const { ramBytes, nonZeroBytes, storedBytes } = manifest.sizes;
    expect(report).toMatchObject({ name: 'vm', generation: 1, ramBytes, nonZeroBytes, storedBytes });
    expect(nonZeroBytes).toBe(2 * PAGE_BYTES);
    expect(manifest).toMatchObject({
      mode: 'import',
      runState: 'running',
      qemu: { version: 'unknown', binaryName: 'unknown' },
      machine: { type: 'pc-q35-7.2' },
      commandLine: ['-m', '64'],
      workingDirectory: process.cwd(),
    });
  });

  it('holds no command line and no folder when none was given', async () => {
    const storeDir = temporaryDir();
    await importPieces([stream], { storeDir });
    const { commandLine, workingDirectory } = readManifest(path.join(storeDir, 'vm', '1'));
    expect({ commandLine, workingDirectory }).toEqual({ commandLine: [], workingDirectory: undefined });
  });

  it('is paused when the stream says that the machine was', async () => {
    const storeDir = temporaryDir();
    const paused = fullSection(7, 'globalstate', Buffer.from('\0\0\0\x07paused\0\0'));
    const deviceState = Buffer.concat([DEVICE_STATE, paused]);
    await importPieces([buildStream({ ...SMALL_STREAM, deviceState })], { storeDir });
    expect(readManifest(path.join(storeDir, 'vm', '1')).runState).toBe('paused');
  });

  it('says how many pages the stream does not hold', async () => {
    const messages: string[] = [];
    await importPieces([stream], { storeDir: temporaryDir(), onMessage: (text) => messages.push(text) });
    expect(messages).toEqual(['The stream holds nothing for 6 pages (24.0 KiB): they read as zero.']);
  });

  it.each([
    ['a libvirt save file', Buffer.from('LibvirtQemudSave\x03\0\0\0'), 'FORMAT_UNSUPPORTED'],
    ['a gzip file', Buffer.from('1f8b0800000000000003', 'hex'), 'FORMAT_UNSUPPORTED'],
    ['nothing', Buffer.alloc(0), 'STREAM_TRUNCATED'],
    ['half a stream', stream.subarray(0, stream.length / 2), 'STREAM_TRUNCATED'],
    ['text', Buffer.from('This is not a stream.'), 'STREAM_MALFORMED'],
  ])('of %s is refused and leaves the store empty', async (_title, bytes, code) => {
    const storeDir = temporaryDir();
    await expect(importPieces([bytes], { storeDir })).rejects.toMatchObject({ code });
    expect(readdirSync(storeDir)).toEqual([]);
  });

  it('that is interrupted while its input is silent leaves the store empty', async () => {
    const storeDir = temporaryDir();
    const input = new PassThrough();
    input.write(stream.subarray(0, 5000));
    const interrupt = new AbortController();
    const imported = importPieces([], { storeDir, input, signal: interrupt.signal });
    const outcome = expect(imported).rejects.toMatchObject({ code: 'INTERRUPTED' });
    setTimeout(() => interrupt.abort(new VmckptError('INTERRUPTED', 'interrupted')), 100);
    await outcome;
    expect(readdirSync(storeDir)).toEqual([]);
  });

  it('whose input fails leaves the store empty', async () => {
    const storeDir = temporaryDir();
    const failure = Object.assign(new Error('EIO: i/o error, read'), { code: 'EIO' });
    const input = new Readable({ read: () => void input.destroy(failure) });
    await expect(importPieces([], { storeDir, input })).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
    expect(readdirSync(storeDir)).toEqual([]);
  });
});

describe('an export', () => {
  const stream = buildStream({ layout: LAYOUT, parts: [everyPage] });

  async function imported(): Promise<{ storeDir: string; out: string }> {
    const dir = temporaryDir();
    const out = path.join(dir, 'out');
    mkdirSync(out);
    const storeDir = path.join(dir, 'store');
    await importPieces([stream], { storeDir });
    return { storeDir, out };
  }

  it('is a file for its owner alone, of the size that is reported', async () => {
    const { storeDir, out } = await imported();
    const file = path.join(out, 'vm.stream');
    const report = await exportTo(file, { storeDir });
    const { size, mode } = statSync(file);
    expect(report).toMatchObject({ name: 'vm', generation: 1, file, fileBytes: size });
    expect(mode & 0o777).toBe(0o600);
    expect(readdirSync(out)).toEqual(['vm.stream']);
  });

  it.each([
    ['pack', 'EXTENT_DAMAGED'],
    ['device-state', 'DEVICE_STATE_DAMAGED'],
    ['page-chunks', 'INDEX_DAMAGED'],
    ['manifest.json', 'MANIFEST_DAMAGED'],
  ])('of a generation with damage in its %s gives no file', async (damagedFile, code) => {
    const { storeDir, out } = await imported();
    const dir = path.join(storeDir, 'vm', '1');
    const file = damagedFile === 'pack' ? ownPack(dir) : path.join(dir, damagedFile);
    const bytes = readFileSync(file);
    bytes[Math.min(bytes.length >> 1, 5000)]! ^= 0x10;
    writeFileSync(file, bytes);
    await expect(exportTo(path.join(out, 'x'), { storeDir })).rejects.toMatchObject({ code });
    expect(readdirSync(out)).toEqual([]);
  });

  it('that is interrupted gives no file', async () => {
    const { storeDir, out } = await imported();
    const signal = AbortSignal.abort(new VmckptError('INTERRUPTED', 'interrupted'));
    const attempt = exportTo(path.join(out, 'x'), { storeDir, signal });
    await expect(attempt).rejects.toMatchObject({ code: 'INTERRUPTED' });
    expect(readdirSync(out)).toEqual([]);
  });

  it('fails, and does not hang, when the reader of its stream goes away', async () => {
    const { storeDir, out } = await imported();
    const server = net.createServer((connection) => connection.destroy());
    server.listen(path.join(out, 'sock'));
    await once(server, 'listening');
    const socket = net.connect(path.join(out, 'sock'));
    await once(socket, 'close');
    await expect(exportTo('', { storeDir, target: { stream: socket } })).rejects.toBeInstanceOf(VmckptError);
    server.close();
  });

  it('stops at once when it is interrupted while the reader of its stream waits', async () => {
    const { storeDir, out } = await imported();
    const server = net.createServer({ pauseOnConnect: true });
    server.listen(path.join(out, 'sock'));
    await once(server, 'listening');
    const connected = once(server, 'connection') as Promise<[net.Socket]>;
    const socket = net.connect(path.join(out, 'sock'));
    const [peer] = await connected;
    const interrupt = new AbortController();
    setTimeout(() => interrupt.abort(new VmckptError('INTERRUPTED', 'interrupted')), 100);
    const attempt = exportTo('', { storeDir, target: { stream: socket }, signal: interrupt.signal });
    await expect(attempt).rejects.toMatchObject({ code: 'INTERRUPTED' });
    expect(socket.destroyed).toBe(true);
    peer.destroy();
    server.close();
  });
});

it('both can be interrupted at any moment, and leave nothing half-made', async () => {
  const dir = temporaryDir();
  const stream = buildStream({ layout: LAYOUT, parts: [everyPage] });
  const [storeDir, newStore, out] = ['store', 'new', 'out'].map((name) => path.join(dir, name)) as [
    string,
    string,
    string,
  ];
  mkdirSync(out);
  await importPieces([stream], { storeDir });
  for (let round = 0; round < 40; round++) {
    const interrupt = new AbortController();
    const { signal } = interrupt;
    setTimeout(() => interrupt.abort(new VmckptError('INTERRUPTED', 'interrupted')), round);
    const input = new PassThrough();
    input.write(stream.subarray(0, stream.length - 1));
    const imported = importPieces([], { storeDir: newStore, input, signal });
    const file = path.join(out, `${round}`);
    const exported = exportTo(file, { storeDir, signal }).then(
      () => expect(readStream(readFileSync(file))).toEqual(readStream(stream)),
      (error: unknown) => expect([error, existsSync(file)]).toMatchObject([{ code: 'INTERRUPTED' }, false]),
    );
    await expect(imported).rejects.toMatchObject({ code: 'INTERRUPTED' });
    await exported;
    expect(readdirSync(newStore)).toEqual([]);
  }
});
