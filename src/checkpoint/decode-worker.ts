/** Worker thread of the decode pool: reads, verifies and decodes extents into shared memory. */
import { workerData } from 'node:worker_threads';
import { PAGE_BYTES } from '../pages/layout.js';
import { ExtentDecoder } from './extent-codec.js';
import { readAt } from './files.js';
import type { LocatedExtent } from './generation-catalog.js';
import { answerRequests } from './worker-team.js';

export interface DecodeWorkerData {
  /** Extents are put this far from each other. */
  readonly extentBytes: number;
}

export interface DecodeRequest {
  readonly extents: readonly LocatedExtent[];
  /** Shared memory with room for all of them. */
  readonly into: Uint8Array;
}

/** The first damaged extent of the request, by its place there. */
export interface DecodeFault {
  readonly position: number;
  readonly fault: string;
}

/** Neighbours in the file are read together, up to this length. */
const MAX_READ_BYTES = 1 << 20;

const { extentBytes } = workerData as DecodeWorkerData;
const decoder = new ExtentDecoder();
const stored = new Uint8Array(Math.max(MAX_READ_BYTES, extentBytes));

answerRequests<DecodeRequest, DecodeFault | undefined>(({ extents, into }) => {
  for (let first = 0; first < extents.length;) {
    const end = endOfRun(extents, first);
    const fault = decodeRun(extents, { first, end, into });
    if (fault !== undefined) return fault;
    first = end;
  }
  return undefined;
});

function endOfRun(extents: readonly LocatedExtent[], first: number): number {
  const { fd, offset } = extents[first]!;
  let end = first;
  let runBytes = 0;
  for (; end < extents.length; end++) {
    const next = extents[end]!;
    if (next.fd !== fd || next.offset !== offset + runBytes) break;
    runBytes += next.storedBytes;
    if (runBytes > stored.length) break;
  }
  return end;
}

function decodeRun(
  extents: readonly LocatedExtent[],
  { first, end, into }: { first: number; end: number; into: Uint8Array },
): DecodeFault | undefined {
  const { fd, offset } = extents[first]!;
  const last = extents[end - 1]!;
  const run = stored.subarray(0, last.offset + last.storedBytes - offset);
  let readBytes: number;
  try {
    readBytes = readAt(fd, run, offset);
  } catch (error) {
    return { position: first, fault: `it cannot be read: ${error instanceof Error ? error.message : ''}` };
  }
  for (let position = first; position < end; position++) {
    const extent = extents[position]!;
    const at = extent.offset - offset;
    const bytes = run.subarray(Math.min(at, readBytes), Math.min(at + extent.storedBytes, readBytes));
    const place = into.subarray(
      position * extentBytes,
      position * extentBytes + extent.pageCount * PAGE_BYTES,
    );
    const fault = decoder.decode(extent, bytes, place);
    if (fault !== undefined) return { position, fault };
  }
  return undefined;
}
