/**
 * A generation that is still arriving, and the double of its fetcher, which brings what is wanted from a whole one, late
 * and in random order. test/unit/native/late_filler.h is the same in C++.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, readAt, writeAt } from '../../src/checkpoint/files.js';
import { packFile, packParts } from '../../src/checkpoint/format.js';
import { mapShared, SharedWord } from '../../src/native/index.js';
import {
  CACHE_FILES,
  PRESENCE,
  WANT_BYTES,
  bitmapBytes,
  decodeWant,
  presenceFile,
  type Want,
} from '../../src/page-server/cache-layout.js';
import type { StoredRange } from '../../src/page-server/arrival.js';
import type { Random } from './faults.js';
import { format2Manifest } from './packs.js';

const { blockBytes: BLOCK_BYTES, headerBytes: HEADER_BYTES } = PRESENCE;

interface Pack {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly present: number;
  readonly fileBytes: number;
}

export interface LateFillerOptions {
  /** The whole generation. */
  readonly generationDir: string;
  /** A folder that does not exist yet. */
  readonly cacheDir: string;
  readonly name?: string;
  /** Without it, everything comes at once and in order. */
  readonly random?: Random | undefined;
  /** The most that something takes, with `random`. */
  readonly delayMs?: number;
}

export class LateFiller {
  /** A store with the generation. */
  readonly storeDir: string;
  readonly dir: string;
  /** All that were read. */
  readonly wants: Want[] = [];
  /** While it is true, nothing arrives: the source is away. */
  isAway = false;
  readonly #options: LateFillerOptions;
  readonly #packs = new Map<string, Pack>();
  readonly #wantsFd: number;
  readonly #arrivals: SharedWord;
  /** `pack/block`s that are not brought. */
  readonly #withheld = new Set<string>();
  #hasEnded = false;
  readonly #ended: Promise<void>;

  constructor(options: LateFillerOptions) {
    const { generationDir, cacheDir, name = 'web' } = options;
    this.#options = options;
    this.storeDir = path.join(cacheDir, CACHE_FILES.stores, 'key');
    this.dir = path.join(this.storeDir, name, '1');
    fs.mkdirSync(this.dir, { recursive: true });
    execFileSync('mkfifo', ['-m', '600', path.join(cacheDir, CACHE_FILES.wants)]);
    this.#wantsFd = fs.openSync(
      path.join(cacheDir, CACHE_FILES.wants),
      fs.constants.O_RDWR | fs.constants.O_NONBLOCK,
    );
    const arrivals = fs.openSync(path.join(cacheDir, CACHE_FILES.arrivals), 'w+', 0o600);
    fs.ftruncateSync(arrivals, 4096);
    this.#arrivals = new SharedWord(mapShared(arrivals), 0);
    fs.closeSync(arrivals);
    for (const file of fs.readdirSync(generationDir))
      if (!file.startsWith(packFile('')) && file !== 'hot-pack')
        fs.cpSync(path.join(generationDir, file), path.join(this.dir, file));
    for (const pack of format2Manifest(generationDir).packs) this.#addPack(pack);
    this.#ended = this.#serve();
  }

  async end(): Promise<void> {
    this.#hasEnded = true;
    await this.#ended;
    for (const { from, to, present } of this.#packs.values())
      for (const fd of [from, to, present]) fs.closeSync(fd);
    fs.closeSync(this.#wantsFd);
  }

  /** Does not bring the blocks that belong to this range alone. */
  withhold(range: StoredRange): void {
    for (const block of ownBlocks(range)) this.#withheld.add(`${range.file}/${block}`);
  }

  deliver(range: StoredRange): void {
    for (const block of ownBlocks(range)) this.#withheld.delete(`${range.file}/${block}`);
    const pack = [...this.#packs.values()].find(({ name }) => name === range.file)!;
    this.#bring(pack, { offset: range.offset, length: range.storedBytes });
    this.#arrivals.raise();
  }

  #addPack(facts: ReturnType<typeof format2Manifest>['packs'][number]): void {
    const name = packFile(facts.id);
    const from = fs.openSync(path.join(this.#options.generationDir, name), 'r');
    const to = fs.openSync(path.join(this.dir, name), 'w+', 0o600);
    fs.ftruncateSync(to, facts.fileBytes);
    const present = fs.openSync(path.join(this.dir, presenceFile(facts.id)), 'w+', 0o600);
    const header = Buffer.alloc(HEADER_BYTES);
    header.write(PRESENCE.magic, PRESENCE.at.magic);
    header.writeUInt32LE(PRESENCE.version, PRESENCE.at.version);
    header.writeUInt32LE(BLOCK_BYTES, PRESENCE.at.blockBytes);
    header.writeBigUInt64LE(BigInt(facts.fileBytes), PRESENCE.at.fileBytes);
    header.write(facts.id, PRESENCE.at.packId, 'hex');
    writeAt(present, header, 0);
    fs.ftruncateSync(present, HEADER_BYTES + 2 * bitmapBytes(facts.fileBytes));
    const pack = { name, from, to, present, fileBytes: facts.fileBytes };
    this.#packs.set(facts.id, pack);
    const { recordsOffset } = packParts(facts);
    this.#bring(pack, { offset: 0, length: 1 });
    this.#bring(pack, { offset: recordsOffset, length: facts.fileBytes - recordsOffset });
  }

  async #serve(): Promise<void> {
    const { random, delayMs = 0 } = this.#options;
    const due: { want: Want; atMs: number }[] = [];
    while (!this.#hasEnded) {
      const nowMs = performance.now();
      for (const want of this.#readWants()) {
        this.wants.push(want);
        due.push({ want, atMs: random === undefined ? nowMs : nowMs + random.next() * delayMs });
      }
      if (!this.isAway) {
        const ready = due.filter(({ atMs }) => atMs <= nowMs);
        due.splice(0, due.length, ...due.filter(({ atMs }) => atMs > nowMs));
        for (const { want } of ready) this.#answer(want);
        if (ready.length > 0) this.#arrivals.raise();
      }
      await sleep(1);
    }
  }

  #readWants(): Want[] {
    const records = Buffer.alloc(1024 * WANT_BYTES);
    try {
      const length = fs.readSync(this.#wantsFd, records);
      const starts = Array.from({ length: length / WANT_BYTES }, (_, at) => at * WANT_BYTES);
      return starts.map((start) => decodeWant(records.subarray(start, start + WANT_BYTES))!);
    } catch (error) {
      if (errnoOf(error) === 'EAGAIN') return [];
      throw error;
    }
  }

  #answer(want: Want): void {
    const pack = this.#packs.get(want.packId)!;
    if (want.isAgain) this.#forget(pack, want);
    this.#bring(pack, want);
    if (!want.isAgain) return;
    const word = Buffer.alloc(8);
    readAt(pack.present, word.subarray(0, 4), PRESENCE.at.refetchCount);
    const count = word.readUInt32LE();
    word.writeBigUInt64LE(BigInt(want.offset));
    writeAt(pack.present, word, PRESENCE.at.refetches + (count % PRESENCE.refetchSlots) * 8);
    word.writeUInt32LE(count + 1);
    writeAt(pack.present, word.subarray(0, 4), PRESENCE.at.refetchCount);
  }

  #bring(pack: Pack, range: { offset: number; length: number }): void {
    const bytes = Buffer.alloc(BLOCK_BYTES);
    for (const block of blocksOf(range, pack.fileBytes)) {
      if (this.#withheld.has(`${pack.name}/${block}`)) continue;
      const length = readAt(pack.from, bytes, block * BLOCK_BYTES);
      writeAt(pack.to, bytes.subarray(0, length), block * BLOCK_BYTES);
      this.#setBit(pack, block, true);
    }
  }

  #forget(pack: Pack, range: { offset: number; length: number }): void {
    for (const block of blocksOf(range, pack.fileBytes)) this.#setBit(pack, block, false);
  }

  #setBit({ present }: Pack, block: number, isHere: boolean): void {
    const byte = Buffer.alloc(1);
    const at = HEADER_BYTES + Math.floor(block / 8);
    readAt(present, byte, at);
    byte[0] = isHere ? byte[0]! | (1 << (block % 8)) : byte[0]! & ~(1 << (block % 8));
    writeAt(present, byte, at);
  }
}

function blocksOf({ offset, length }: { offset: number; length: number }, fileBytes: number): number[] {
  const first = Math.floor(offset / BLOCK_BYTES);
  const end = Math.ceil(Math.min(offset + length, fileBytes) / BLOCK_BYTES);
  return Array.from({ length: end - first }, (_, at) => first + at);
}

function ownBlocks({ offset, storedBytes }: StoredRange): number[] {
  const first = Math.ceil(offset / BLOCK_BYTES);
  const end = Math.floor((offset + storedBytes) / BLOCK_BYTES);
  return Array.from({ length: end - first }, (_, at) => first + at);
}
