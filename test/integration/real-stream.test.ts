/** Streams of a real QEMU through the parser, against its own memory dump; and through the serializer back into QEMU. */
import { createReadStream } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ParsedStream, StreamParser } from '../../src/migration-stream/parser.js';
import * as wire from '../../src/migration-stream/serializer.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import type { QmpClient } from '../../src/qemu/qmp.js';
import { until } from '../support/until.js';
import {
  connectWhenReady,
  endProcess,
  FIRMWARE_CLOCK,
  startQemu,
  temporaryDirectory,
  TINY,
  untilWritten,
} from './qemu-helper.js';

const RAM_BYTES = 64 * 2 ** 20;
const DATA_ADDRESS = 0x0100_0000;
const BIOS = { name: 'pc.bios', address: 2 ** 32 - 256 * 1024, sizeBytes: 256 * 1024 };
/** Where the processor sees something else than pc.ram: SMM memory and shadowed ROMs. */
const HIDDEN_PAGES = { from: 0xa0000 / PAGE_BYTES, to: 0x100000 / PAGE_BYTES };

const MigrationInfo = v.object({ status: v.optional(v.string()), 'error-desc': v.optional(v.string()) });
const { directory, remove } = temporaryDirectory();
afterAll(remove);

interface Saved {
  readonly stream: ParsedStream;
  /** Every block's bytes, a row of pages by flat page number. */
  readonly memory: Buffer;
  /** How often each page came. */
  readonly seen: Uint8Array;
  readonly streamFile: string;
  /** QEMU's own dumps of what the processor sees. */
  readonly ramDump: Buffer;
  readonly biosDump: Buffer;
}

const inDirectory = (name: string): string => path.join(directory, name);

async function withQemu<T>(
  name: string,
  args: readonly string[],
  use: (qmp: QmpClient) => Promise<T>,
): Promise<T> {
  const socket = inDirectory(`${name}.sock`);
  const loader = ['-device', `loader,file=${inDirectory('data')},addr=${DATA_ADDRESS},force-raw=on`];
  const qemu = startQemu([...TINY, ...loader, '-qmp', `unix:${socket},server=on,wait=off`, ...args]);
  try {
    const qmp = await connectWhenReady(socket);
    return await use(qmp);
  } finally {
    await endProcess(qemu);
  }
}

async function dump(
  qmp: QmpClient,
  name: string,
  range: { address: number; sizeBytes: number },
): Promise<Buffer> {
  const filename = inDirectory(name);
  await qmp.execute('pmemsave', { val: range.address, size: range.sizeBytes, filename });
  return readFile(filename);
}

async function migrationDone(qmp: QmpClient): Promise<void> {
  await until('the migration', async () => {
    const info = await qmp.query(MigrationInfo, 'query-migrate');
    if (info.status === 'failed') throw new Error(info['error-desc'] ?? 'migration failed');
    return info.status === 'completed';
  });
}

async function parseFile(file: string): Promise<Pick<Saved, 'stream' | 'memory' | 'seen'>> {
  let memory = Buffer.alloc(0);
  let seen = new Uint8Array(0);
  const parser = new StreamParser({
    onLayout: ({ ramBytes, pageCount }) => {
      memory = Buffer.alloc(ramBytes, 0xee);
      seen = new Uint8Array(pageCount);
      return {
        fill(page, byte) {
          memory.fill(byte, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
          seen[page]!++;
        },
        data(page, bytes, start) {
          memory.set(bytes.subarray(start, start + PAGE_BYTES), page * PAGE_BYTES);
          seen[page]!++;
        },
      };
    },
  });
  for await (const chunk of createReadStream(file, { highWaterMark: 256 * 1024 }))
    parser.push(chunk as Buffer);
  return { stream: parser.end(), memory, seen };
}

/** Lets the firmware run for a moment, stops, dumps, and saves with the given capabilities. */
async function save(name: string, capabilities: readonly string[]): Promise<Saved> {
  const streamFile = inDirectory(`${name}.stream`);
  const dumps = await withQemu(name, [], async (qmp) => {
    await untilWritten(qmp, FIRMWARE_CLOCK);
    await qmp.execute('stop');
    const ramDump = await dump(qmp, `${name}.ram`, { address: 0, sizeBytes: RAM_BYTES });
    const biosDump = await dump(qmp, `${name}.bios`, BIOS);
    await qmp.execute('migrate-set-capabilities', {
      capabilities: capabilities.map((capability) => ({ capability, state: true })),
    });
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
    await qmp.execute('migrate', { uri: `exec:cat > ${streamFile}` });
    await migrationDone(qmp);
    return { ramDump, biosDump };
  });
  return { ...dumps, ...(await parseFile(streamFile)), streamFile };
}

function expectSameRam(actual: Buffer, expected: Buffer): void {
  const different: number[] = [];
  for (let page = 0; page < RAM_BYTES / PAGE_BYTES; page++) {
    if (page >= HIDDEN_PAGES.from && page < HIDDEN_PAGES.to) continue;
    const at = page * PAGE_BYTES;
    if (actual.compare(expected, at, at + PAGE_BYTES, at, at + PAGE_BYTES) !== 0) different.push(page);
  }
  expect(different).toEqual([]);
}

beforeAll(async () => {
  const data = Buffer.alloc(16 * 2 ** 20);
  for (let at = 0, x = 1; at < data.length; at += 4)
    data.writeUInt32LE((x = (Math.imul(x, 1664525) + 1013904223) >>> 0), at);
  data.fill(0x5a, 8 * 2 ** 20, 9 * 2 ** 20);
  data.fill(0, 10 * 2 ** 20, 11 * 2 ** 20);
  await writeFile(inDirectory('data'), data);
});

describe.each([
  ['an ordinary save', 'ordinary', [], 'every'],
  ['a background snapshot', 'background', ['background-snapshot'], 'once'],
] as const)('the stream of %s', (_, name, capabilities, coverage) => {
  let saved: Saved;
  beforeAll(async () => {
    saved = await save(name, capabilities);
  });

  it('holds every page of RAM as QEMU itself dumps it', () => {
    const { stream, memory, ramDump, biosDump, seen } = saved;
    const { blocks } = stream.layout;
    expect(blocks[0]).toMatchObject({ name: 'pc.ram', usedBytes: RAM_BYTES });
    expectSameRam(memory, ramDump);
    const bios = stream.layout.byName(BIOS.name)!;
    expect(bios.usedBytes).toBe(BIOS.sizeBytes);
    expect(
      memory.subarray(bios.firstPage * PAGE_BYTES, (bios.firstPage + bios.pageCount) * PAGE_BYTES),
    ).toEqual(biosDump);
    expect(seen.every((count) => (coverage === 'once' ? count === 1 : count >= 1))).toBe(true);
    expect(stream.dataPageCount).toBeGreaterThan((14 * 2 ** 20) / PAGE_BYTES);
    expect(stream.dataPageCount + stream.fillPageCount).toBeGreaterThanOrEqual(stream.layout.pageCount);
  });

  it('ends in device state and a description that names the same devices', async () => {
    const { stream, streamFile } = saved;
    expect(stream.machineName).toMatch(/^pc-q35-/);
    expect(stream.byteCount).toBe((await readFile(streamFile)).length);
    expect(stream.deviceState[0]).toBe(0x04);
    const description = v.parse(
      v.object({ devices: v.array(v.object({ name: v.string(), instance_id: v.number() })) }),
      JSON.parse(stream.description.toString('utf8')),
    );
    const text = stream.deviceState.toString('latin1');
    const missing = description.devices.filter((device) => !text.includes(device.name));
    expect(missing).toEqual([]);
    expect(description.devices.length).toBeGreaterThan(5);
  });

  it('is loaded by QEMU again when the serializer has written it anew', async () => {
    const { stream, memory, ramDump } = saved;
    const file = inDirectory(`${name}.rewritten`);
    await writeFile(file, rewritten(stream, memory));
    const loaded = await withQemu(`${name}-incoming`, ['-S', '-incoming', 'defer'], async (qmp) => {
      await qmp.execute('migrate-incoming', { uri: `exec:cat ${file}` });
      await migrationDone(qmp);
      return dump(qmp, `${name}.loaded`, { address: 0, sizeBytes: RAM_BYTES });
    });
    expectSameRam(loaded, ramDump);
  });
});

/** The saved VM as a plain stream: zero pages as ZERO, all others in full. */
function rewritten(
  { layout, configuration, ramSectionId, deviceState, description }: ParsedStream,
  memory: Buffer,
): Buffer {
  const zeroPage = Buffer.alloc(PAGE_BYTES);
  const records = new wire.RecordWriter(layout, 1 << 20);
  for (let page = 0; page < layout.pageCount; page++) {
    const at = page * PAGE_BYTES;
    if (memory.compare(zeroPage, 0, PAGE_BYTES, at, at + PAGE_BYTES) === 0) records.zero(page);
    else records.page(page, memory, at);
  }
  return Buffer.concat([
    wire.streamHeader(configuration),
    wire.ramStart(ramSectionId, layout),
    wire.ramPartOpen(ramSectionId),
    records.take(),
    wire.ramClose(ramSectionId),
    wire.ramEndOpen(ramSectionId),
    wire.ramClose(ramSectionId),
    deviceState,
    wire.END_OF_STREAM,
    wire.vmDescription(description),
  ]);
}
