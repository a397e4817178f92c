/**
 * Worker thread of the pages writer: compresses and checksums a batch of extents, reserves room at the tail of
 * the pack, writes the batch with one system call, and leaves finished extent records in the batch's slab.
 */
import { workerData } from 'node:worker_threads';
import { syncFileRange, xxh3 } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { Slab } from './batch.js';
import { ExtentEncoder, encodeBound, type Level, type StoredExtent } from './extent-codec.js';
import { writeAt } from './files.js';
import { RECORD_CHUNKS, encodeExtent } from './format.js';
import { answerRequests } from './worker-team.js';

export interface CompressWorkerData {
  readonly packFd: number;
  readonly slabs: readonly Slab[];
  /** Length of the pack so far, in its only element; shared by all threads. */
  readonly tail: BigInt64Array;
  readonly level: Level;
  readonly extentPages: number;
}

export interface CompressRequest {
  readonly slab: number;
  readonly pageCount: number;
}

/** Write-out starts this far behind the tail, so that the fsync at the end has little left to do. */
const WRITE_OUT_BYTES = 8 << 20;

const { packFd, slabs, tail, level, extentPages } = workerData as CompressWorkerData;
const extentBytes = extentPages * PAGE_BYTES;
const encoder = new ExtentEncoder(level);
const stored = new Uint8Array(slabs[0]!.pages.length + encodeBound(extentBytes));

answerRequests<CompressRequest, void>(({ slab, pageCount }) => {
  const { pages, records } = slabs[slab]!;
  const extents: StoredExtent[] = [];
  let batchBytes = 0;
  for (let start = 0; start < pageCount * PAGE_BYTES; start += extentBytes) {
    const end = Math.min(start + extentBytes, pageCount * PAGE_BYTES);
    const extent = encoder.encode(pages.subarray(start, end), stored.subarray(batchBytes));
    extents.push(extent);
    batchBytes += extent.storedBytes;
  }
  const offset = Number(Atomics.add(tail, 0, BigInt(batchBytes)));
  writeAt(packFd, stored.subarray(0, batchBytes), offset);
  startWriteOut(offset, offset + batchBytes);
  let at = 0;
  for (const [position, { storedBytes, codec }] of extents.entries()) {
    encodeExtent(records, position * RECORD_CHUNKS.entryWords, {
      offset: offset + at,
      storedBytes,
      codec,
      pageCount: Math.min(extentPages, pageCount - position * extentPages),
      checksum: xxh3(stored, at, at + storedBytes),
    });
    at += storedBytes;
  }
});

/** Whoever writes across a boundary starts the window before it, by now whole but for a straggler's batch. */
function startWriteOut(start: number, end: number): void {
  const window = Math.floor(end / WRITE_OUT_BYTES);
  if (window > Math.floor(start / WRITE_OUT_BYTES))
    syncFileRange(packFd, (window - 1) * WRITE_OUT_BYTES, WRITE_OUT_BYTES);
}
