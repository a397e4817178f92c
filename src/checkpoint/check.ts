/**
 * Verifies all of a generation: every checksum, that every index entry points somewhere, that extents lie beside
 * each other and fill their file, and that the manifest counts what is there. Goes on after a problem.
 */
import { VmckptError, type ErrorCode } from '../errors.js';
import { PageBitmap } from '../pages/bitmap.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { FileExtents } from './file-extents.js';
import { HEADER_BYTES, PAGE_INDEX_SPEC } from './format.js';
import { CheckpointReader } from './reader.js';

const MAX_LISTED_PROBLEMS = 100;
/** A divisor of the records in an index chunk, so that a damaged chunk costs no extents beside it. */
const EXTENTS_PER_RUN = 32;
const REQUESTS_AHEAD = 4;

export interface CheckOptions {
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
}

export interface CheckProblem {
  readonly code: ErrorCode;
  readonly message: string;
}

export interface CheckReport {
  readonly pageCount: number;
  readonly extentCount: number;
  /** All files of the generation but the manifest. */
  readonly storedBytes: number;
  /** The first of them. */
  readonly problems: readonly CheckProblem[];
  readonly problemCount: number;
}

/**
 * Damage is reported, not thrown. A generation that cannot even be opened has that one problem.
 * @throws VmckptError NOT_PERMITTED; the signal's reason
 */
export async function checkCheckpoint(dir: string, options: CheckOptions = {}): Promise<CheckReport> {
  const problems = new ProblemList();
  const reader = await problems.catching(() => CheckpointReader.open(dir));
  if (reader === undefined) return { pageCount: 0, extentCount: 0, storedBytes: 0, ...problems.report };
  const source = new FileExtents(reader);
  try {
    await problems.catching(() => reader.deviceState());
    await checkPageIndex(reader, problems, options);
    await checkExtents({ reader, source, problems }, options);
  } finally {
    await source.close();
    reader.close();
  }
  return {
    pageCount: reader.pageCount,
    extentCount: reader.extentCount,
    storedBytes: reader.manifest.sizes.storedBytes,
    ...problems.report,
  };
}

class ProblemList {
  readonly #listed: CheckProblem[] = [];
  #count = 0;

  get report(): { problems: readonly CheckProblem[]; problemCount: number } {
    return { problems: this.#listed, problemCount: this.#count };
  }

  /** A damaged index chunk is met from many places and listed once. */
  add(code: ErrorCode, message: string): void {
    if (this.#listed.some((problem) => problem.message === message)) return;
    this.#count++;
    if (this.#listed.length < MAX_LISTED_PROBLEMS) this.#listed.push({ code, message });
  }

  /** What the step returns, or undefined when it finds damage, which is then listed. */
  async catching<T>(step: () => T | Promise<T>): Promise<T | undefined> {
    try {
      return await step();
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      if (error.kind !== 'damaged' && error.kind !== 'incompatible') throw error;
      this.add(error.code, error.message);
      return undefined;
    }
  }
}

async function checkPageIndex(
  reader: CheckpointReader,
  problems: ProblemList,
  { signal }: CheckOptions,
): Promise<void> {
  const counts = [0, 0, 0, 0];
  const taken = new PageBitmap(reader.extentCount * reader.extentPages);
  let whole = true;
  for (let first = 0; first < reader.pageCount; first += PAGE_INDEX_SPEC.entriesPerChunk) {
    signal?.throwIfAborted();
    const end = Math.min(first + PAGE_INDEX_SPEC.entriesPerChunk, reader.pageCount);
    const counted = await problems.catching(() => countKinds(reader, { first, end, counts, taken }));
    whole &&= counted !== undefined;
  }
  const { pages } = reader.manifest;
  const expected = [pages.absentPageCount, pages.zeroPageCount, pages.fillPageCount, pages.dataPageCount];
  if (whole && counts.some((count, kind) => count !== expected[kind]))
    problems.add(
      'INDEX_DAMAGED',
      `${reader.label}: ${counts.join(', ')} absent, zero, fill and data pages in the index, ${expected.join(', ')} expected`,
    );
}

interface ChunkOfPages {
  readonly first: number;
  readonly end: number;
  readonly counts: number[];
  /** Places in extents where a page lies already. */
  readonly taken: PageBitmap;
}

/** Goes by every entry of a chunk, and looks where it points to. @returns true; throws at the first that is wrong. */
function countKinds(reader: CheckpointReader, { first, end, counts, taken }: ChunkOfPages): true {
  for (let page = first; page < end; page++) {
    const kind = reader.kindOf(page);
    if (
      kind === PAGE_KINDS.data &&
      !taken.claim(reader.extentOf(page) * reader.extentPages + reader.slotOf(page))
    )
      throw new VmckptError(
        'INDEX_DAMAGED',
        `${reader.label}/page-index: page ${page} lies in the place of another one`,
      );
    counts[kind]!++;
  }
  return true;
}

interface ExtentCheck {
  readonly reader: CheckpointReader;
  readonly source: FileExtents;
  readonly problems: ProblemList;
}

async function checkExtents(check: ExtentCheck, { onProgress, signal }: CheckOptions): Promise<void> {
  const { reader, problems } = check;
  const totalBytes = reader.manifest.pages.fileBytes;
  const starts = new Float64Array(reader.extentCount);
  const ends = new Float64Array(reader.extentCount);
  const ahead: Promise<void>[] = [];
  let known = 0;
  let doneBytes = HEADER_BYTES;
  let extentPages = 0;
  try {
    for (const [first, end] of runsOf(reader.extentCount)) {
      signal?.throwIfAborted();
      const numbers = Array.from({ length: end - first }, (_, index) => first + index);
      const infos = await problems.catching(() => numbers.map((extent) => reader.extentInfo(extent)));
      if (infos === undefined) continue;
      for (const { offset, pageCount, storedBytes } of infos) {
        starts[known] = offset;
        ends[known++] = offset + storedBytes;
        doneBytes += storedBytes;
        extentPages += pageCount;
      }
      ahead.push(checkRun(check, numbers));
      if (ahead.length > REQUESTS_AHEAD) await ahead.shift();
      onProgress?.(doneBytes, totalBytes);
    }
  } finally {
    await Promise.all(ahead);
  }
  checkPlaces(check, { starts: starts.subarray(0, known), ends: ends.subarray(0, known), extentPages });
}

function* runsOf(extentCount: number): Generator<[first: number, end: number]> {
  for (let first = 0; first < extentCount; first += EXTENTS_PER_RUN)
    yield [first, Math.min(first + EXTENTS_PER_RUN, extentCount)];
}

/** Decodes a run of extents at once, and one by one when one of them is damaged. */
async function checkRun(
  { reader, source, problems }: ExtentCheck,
  extents: readonly number[],
): Promise<void> {
  try {
    (await source.read(extents)).release();
  } catch {
    const into = new Uint8Array(reader.extentPages * PAGE_BYTES);
    for (const extent of extents) await problems.catching(() => reader.readExtent(extent, into));
  }
}

function checkPlaces(
  { reader, problems }: ExtentCheck,
  { starts, ends, extentPages }: { starts: Float64Array; ends: Float64Array; extentPages: number },
): void {
  // Sorted apart from each other: some extent overlaps another exactly if some start lies before the end before it.
  starts.sort();
  ends.sort();
  let expected = HEADER_BYTES;
  let storedBytes = 0;
  for (const [index, start] of starts.entries()) {
    if (start < expected)
      return problems.add('INDEX_DAMAGED', `${reader.label}: extents overlap at offset ${start} of "pages"`);
    expected = ends[index]!;
    storedBytes += expected - start;
  }
  if (starts.length < reader.extentCount) return;
  const { dataPageCount, fileBytes, supersededPageCount } = reader.manifest.pages;
  if (storedBytes !== fileBytes - HEADER_BYTES)
    problems.add(
      'INDEX_DAMAGED',
      `${reader.label}: extents of ${storedBytes} bytes in a file for ${fileBytes - HEADER_BYTES}`,
    );
  if (extentPages !== dataPageCount + supersededPageCount)
    problems.add(
      'INDEX_DAMAGED',
      `${reader.label}: ${extentPages} pages in extents, ${dataPageCount + supersededPageCount} expected`,
    );
}
