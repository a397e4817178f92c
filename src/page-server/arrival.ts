/**
 * A generation that is still arriving, for who uses it meanwhile: which of its bytes are here, how the others are asked
 * for, and how their arrival is noticed. Its fetcher answers, whoever that is at the time: a want stays in the FIFO while
 * no fetcher runs, and one that is lost is repeated.
 */
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, readAt } from '../checkpoint/files.js';
import { packFile } from '../checkpoint/format.js';
import { generationLabel, openFailure, type Manifest } from '../checkpoint/manifest.js';
import { hasAddon, mapShared, SharedWord, type ImageArrival } from '../native/index.js';
import { openRegular } from '../util/regular-file.js';
import {
  CACHE_FILES,
  cacheOfGeneration,
  encodeWant,
  PRESENCE,
  presenceFile,
  type Want,
} from './cache-layout.js';

/** How long a thread of the addon waits for one arrival, and a process without it before it looks again. */
const WAIT_MS = { withAddon: 20, without: 2 } as const;

/** Bytes of a file with extents. */
export interface StoredRange {
  readonly file: string;
  readonly offset: number;
  readonly storedBytes: number;
}

interface ArrivingPack {
  readonly id: string;
  /** Of its bits. */
  readonly fd: number;
}

export class Arrival {
  /** By the names of their files; those that are whole are left out. */
  readonly #packs: ReadonlyMap<string, ArrivingPack>;
  /** In the manifest's order. */
  readonly #files: readonly string[];
  readonly #wantsFd: number;
  readonly #arrivalsFd: number;
  readonly #arrivals: SharedWord | undefined;

  private constructor(dir: string, packs: ReadonlyMap<string, ArrivingPack>, files: readonly string[]) {
    const cache = cacheOfGeneration(dir);
    this.#packs = packs;
    this.#files = files;
    const { O_RDWR, O_NONBLOCK } = fs.constants;
    this.#wantsFd = fs.openSync(path.join(cache, CACHE_FILES.wants), O_RDWR | O_NONBLOCK);
    this.#arrivalsFd = openRegular(path.join(cache, CACHE_FILES.arrivals), O_RDWR);
    if (hasAddon()) this.#arrivals = new SharedWord(mapShared(this.#arrivalsFd), 0);
  }

  /** @returns undefined for a generation that is here. @throws VmckptError FILE_MISSING, NOT_PERMITTED */
  static of(dir: string, manifest: Manifest): Arrival | undefined {
    if (manifest.formatVersion === 1) return undefined;
    const packs = new Map<string, ArrivingPack>();
    try {
      for (const { id } of manifest.packs) {
        const fd = openPresent(path.join(dir, presenceFile(id)));
        if (fd !== undefined) packs.set(packFile(id), { id, fd });
      }
      const files = manifest.packs.map(({ id }) => packFile(id));
      return packs.size === 0 ? undefined : new Arrival(dir, packs, files);
    } catch (error) {
      for (const { fd } of packs.values()) fs.closeSync(fd);
      throw openFailure(error, generationLabel(dir), 'what has arrived of it');
    }
  }

  /** For the native fault path, which asks by itself. */
  get native(): ImageArrival {
    return {
      presenceFds: this.#files.map((file) => this.#packs.get(file)?.fd),
      wantsFd: this.#wantsFd,
      arrivalsFd: this.#arrivalsFd,
    };
  }

  /** Whether all bytes of the range are here. */
  has({ file, offset, storedBytes }: StoredRange): boolean {
    const pack = this.#packs.get(file);
    if (pack === undefined) return true;
    const first = Math.floor(offset / PRESENCE.blockBytes);
    const last = Math.floor((offset + storedBytes - 1) / PRESENCE.blockBytes);
    const firstByte = Math.floor(first / 8);
    const bits = Buffer.alloc(Math.floor(last / 8) - firstByte + 1);
    readAt(pack.fd, bits, PRESENCE.headerBytes + firstByte);
    for (let block = first; block <= last; block++)
      if (((bits[Math.floor(block / 8) - firstByte]! >> (block % 8)) & 1) === 0) return false;
    return true;
  }

  /** Asks for a range of a pack that is still arriving. Lost when the fetcher has too much to do. */
  ask({ file, offset, storedBytes }: StoredRange, how: Pick<Want, 'lane' | 'isAgain'>): void {
    const { id } = this.#packs.get(file)!;
    try {
      fs.writeSync(this.#wantsFd, encodeWant({ packId: id, offset, length: storedBytes, ...how }));
    } catch (error) {
      if (errnoOf(error) !== 'EAGAIN') throw error;
    }
  }

  /** Whether nothing of the file has to arrive any more. */
  isWhole({ file }: StoredRange): boolean {
    return !this.#packs.has(file);
  }

  /** How many ranges of the pack were fetched once more so far. */
  refetchCount(file: string): number {
    const count = Buffer.alloc(4);
    readAt(this.#packs.get(file)!.fd, count, PRESENCE.at.refetchCount);
    return count.readUInt32LE();
  }

  /** Whether the range was fetched once more after the count was `since`. */
  wasRefetched({ file, offset }: StoredRange, since: number): boolean {
    const added = (this.refetchCount(file) - since) >>> 0;
    if (added > PRESENCE.refetchSlots) return true;
    const slot = Buffer.alloc(8);
    for (let at = since; at < since + added; at++) {
      readAt(this.#packs.get(file)!.fd, slot, PRESENCE.at.refetches + (at % PRESENCE.refetchSlots) * 8);
      if (slot.readBigUInt64LE() === BigInt(offset)) return true;
    }
    return false;
  }

  /** Changes with every arrival. */
  get count(): number {
    return this.#arrivals?.value ?? 0;
  }

  /** Resolves when `count` is not `seen` any more, or soon. */
  async changed(seen: number): Promise<void> {
    if (this.#arrivals === undefined) await sleep(WAIT_MS.without);
    else await this.#arrivals.changed(seen, WAIT_MS.withAddon);
  }

  close(): void {
    for (const fd of [this.#wantsFd, this.#arrivalsFd]) fs.closeSync(fd);
    for (const { fd } of this.#packs.values()) fs.closeSync(fd);
  }
}

/** Undefined where there is none, because the pack is whole. */
function openPresent(file: string): number | undefined {
  try {
    return openRegular(file);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
