/**
 * A pack that is arriving: a sparse file, and beside it which blocks are here. Every extent is verified when its last block
 * arrives, so that what a damaged source has sent is asked of another one, before a guest needs it.
 */
import fs from 'node:fs';
import { FILE_MODE, readAt } from '../../checkpoint/files.js';
import { packParts } from '../../checkpoint/format.js';
import type { Pack } from '../../checkpoint/manifest-schema.js';
import { PRESENCE, PRESENT_SUFFIX } from '../cache-layout.js';
import { ExtentIndex } from './extent-index.js';
import { PresenceFile, type Span } from './presence-file.js';

const BLOCK_BYTES = PRESENCE.blockBytes;

/** What became of a range that has arrived. */
export interface Arrived {
  /** Whole extents of which this range had every byte, and that are not what their records say. */
  readonly damaged: readonly Span[];
  /** Others, of which a part was here before: it cannot be told which part is damaged. */
  readonly doubtful: readonly Span[];
}

export class ArrivingPack {
  readonly pack: Pack;
  /** In the cache; the names in generations are links to it. */
  readonly file: string;
  readonly #fd: number;
  readonly #presence: PresenceFile;
  #extents: ExtentIndex | undefined;

  private constructor(file: string, pack: Pack, presence: PresenceFile) {
    this.file = file;
    this.pack = pack;
    this.#presence = presence;
    this.#fd = fs.openSync(file, 'r+');
  }

  /** Goes on with one that is there, or begins it. */
  static open(file: string, pack: Pack): ArrivingPack {
    const presenceFile = `${file}${PRESENT_SUFFIX}`;
    if (fs.existsSync(file) && fs.existsSync(presenceFile)) {
      const presence = PresenceFile.adopt(presenceFile, pack);
      if (presence !== undefined) return new ArrivingPack(file, pack, presence);
    }
    for (const stale of [file, presenceFile]) fs.rmSync(stale, { force: true });
    const presence = PresenceFile.create(presenceFile, pack);
    const fd = fs.openSync(file, 'wx', FILE_MODE);
    fs.ftruncateSync(fd, pack.fileBytes);
    fs.closeSync(fd);
    return new ArrivingPack(file, pack, presence);
  }

  get isWhole(): boolean {
    return this.#presence.isWhole;
  }

  get presentBytes(): number {
    return this.#presence.presentBytes;
  }

  /** What has to be here before the pack can be opened. */
  get indexSpans(): Span[] {
    const { fileBytes } = this.pack;
    const { recordsOffset } = packParts(this.pack);
    return [
      { offset: 0, length: BLOCK_BYTES },
      { offset: recordsOffset, length: fileBytes - recordsOffset },
    ];
  }

  /** To be called when the index is here and was verified. */
  beginVerifying(): void {
    this.#extents ??= ExtentIndex.read(this.#fd, this.pack);
  }

  /** Whether its index is here. */
  get isVerifying(): boolean {
    return this.#extents !== undefined;
  }

  has(span: Span): boolean {
    return this.#presence.hasAll(span);
  }

  /** Whole blocks that the span touches, up to the end of the pack. */
  blocksOf({ offset, length }: Span): Span {
    const start = Math.floor(offset / BLOCK_BYTES) * BLOCK_BYTES;
    const end = Math.min(Math.ceil((offset + length) / BLOCK_BYTES) * BLOCK_BYTES, this.pack.fileBytes);
    return { offset: start, length: end - start };
  }

  /** The parts of the span that are not here, whole blocks. */
  *missingIn(span: Span): Generator<Span> {
    const { offset, length } = this.blocksOf(span);
    let start: number | undefined;
    for (let at = offset; at < offset + length; at += BLOCK_BYTES) {
      const isHere = this.#presence.hasBlock(at / BLOCK_BYTES);
      if (isHere && start !== undefined) yield { offset: start, length: at - start };
      start = isHere ? undefined : (start ?? at);
    }
    if (start !== undefined) yield { offset: start, length: offset + length - start };
  }

  /**
   * Writes what has arrived, and shows the blocks whose extents are sound.
   * @param offset of a block. @param isLast damaged extents are shown all the same: no source has better ones
   */
  async put(offset: number, bytes: Uint8Array, isLast = false): Promise<Arrived> {
    const span = { offset, length: bytes.length };
    await write(this.#fd, bytes, offset);
    const arrived = isLast ? { damaged: [], doubtful: [] } : this.#verify(span, bytes);
    const bad = [...arrived.damaged, ...arrived.doubtful].map((extent) => this.blocksOf(extent));
    for (const part of bad) this.#presence.put(part, false);
    for (const part of without(span, bad)) this.#presence.put(part, true);
    return arrived;
  }

  /** The blocks of the range are no longer here. */
  forget(span: Span): void {
    this.#presence.put(span, false);
  }

  noteRefetched(offset: number): void {
    this.#presence.noteRefetched(offset);
  }

  /** What is here survives a power loss afterwards. */
  makeDurable(): Promise<void> {
    return this.#presence.makeDurable(() => sync(this.#fd));
  }

  close(): void {
    this.#presence.close();
    fs.closeSync(this.#fd);
  }

  #verify(span: Span, bytes: Uint8Array): Arrived {
    const damaged: Span[] = [];
    const doubtful: Span[] = [];
    for (const at of this.#extents?.within(span) ?? []) {
      const extent = this.#extents!.spanOf(at);
      const start = extent.offset - span.offset;
      const isInside = start >= 0 && start + extent.length <= span.length;
      if (isInside) {
        if (!this.#extents!.isSound(at, bytes.subarray(start, start + extent.length))) damaged.push(extent);
      } else if (this.#isCompleted(extent, span) && !this.#extents!.isSound(at, this.#read(extent)))
        doubtful.push(extent);
    }
    return { damaged, doubtful };
  }

  /** Whether all of the extent is here with what has just arrived. */
  #isCompleted(extent: Span, { offset, length }: Span): boolean {
    const end = extent.offset + extent.length;
    const before = { offset: extent.offset, length: offset - extent.offset };
    const after = { offset: offset + length, length: end - offset - length };
    return [before, after].every((part) => part.length <= 0 || this.#presence.hasAll(part));
  }

  #read({ offset, length }: Span): Uint8Array {
    const bytes = Buffer.allocUnsafe(length);
    readAt(this.#fd, bytes, offset);
    return bytes;
  }
}

/** What is left of a span. */
function* without({ offset, length }: Span, taken: readonly Span[]): Generator<Span> {
  const end = offset + length;
  let at = offset;
  for (const part of [...taken].sort((a, b) => a.offset - b.offset)) {
    if (part.offset > at) yield { offset: at, length: Math.min(part.offset, end) - at };
    at = Math.max(at, part.offset + part.length);
  }
  if (at < end) yield { offset: at, length: end - at };
}

function sync(fd: number): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.fdatasync(fd, (error) => (error === null ? resolve() : reject(error)));
  });
}

/** Small ranges are written at once: a guest may wait for them. Others do not delay what comes in the meantime. */
const MAX_AT_ONCE_BYTES = 256 << 10;

async function write(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length;)
    done +=
      bytes.length <= MAX_AT_ONCE_BYTES
        ? fs.writeSync(fd, bytes, done, bytes.length - done, offset + done)
        : await writeSome(fd, bytes.subarray(done), offset + done);
}

function writeSome(fd: number, bytes: Uint8Array, offset: number): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.write(fd, bytes, 0, bytes.length, offset, (error, count) =>
      error === null ? resolve(count) : reject(error),
    );
  });
}
