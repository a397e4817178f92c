/**
 * Verifies all of a generation: every checksum, that every index entry points somewhere, that extents lie beside
 * each other and fill their file, and that the manifest counts what is there. Goes on after a problem.
 */
import { VmckptError } from '../errors.js';
import { PageBitmap } from '../pages/bitmap.js';
import { PAGE_KINDS } from '../pages/contracts.js';
import { FileExtents } from './file-extents.js';
import { fstatSync } from 'node:fs';
import { checkExtentFile, type ExtentCheck } from './check-extents.js';
import { ProblemList, type CheckProblem } from './check-problems.js';
import { NUMBERS_PER_PLACE, PAGE_CHUNKS, packFile } from './format.js';
import type { NumberedFile } from './generation-catalog.js';
import { CheckpointReader } from './reader.js';

export interface CheckOptions {
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
  /** For checks of several generations: a pack that they share is verified once. */
  readonly verified?: VerifiedFiles;
  /** Names of the files with extents that are verified; all of them by default. */
  readonly only?: ReadonlySet<string>;
}

export type { CheckProblem } from './check-problems.js';

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
    await checkExtentFiles({ reader, source, problems }, options);
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

async function checkPageIndex(
  reader: CheckpointReader,
  problems: ProblemList,
  { signal }: CheckOptions,
): Promise<void> {
  const counts = [0, 0, 0, 0];
  const used = new Map<number, number>();
  const taken = new PageBitmap(reader.extentCount * reader.extentPages);
  let whole = true;
  for (let first = 0; first < reader.pageCount; first += PAGE_CHUNKS.entriesPerChunk) {
    signal?.throwIfAborted();
    const end = Math.min(first + PAGE_CHUNKS.entriesPerChunk, reader.pageCount);
    const counted = await problems.catching(() => countKinds(reader, { first, end, counts, used, taken }));
    whole &&= counted !== undefined;
  }
  const { pages } = reader.manifest;
  const expected = [pages.absentPageCount, pages.zeroPageCount, pages.fillPageCount, pages.dataPageCount];
  if (whole && counts.some((count, kind) => count !== expected[kind]))
    problems.add(
      'INDEX_DAMAGED',
      `${reader.label}: ${counts.join(', ')} absent, zero, fill and data pages in the index, ${expected.join(', ')} expected`,
    );
  if (!whole || reader.manifest.formatVersion === 1) return;
  for (const { place, id, usedPageCount } of reader.manifest.packs) {
    const found = used.get(place) ?? 0;
    if (usedPageCount !== undefined && found !== usedPageCount)
      problems.add(
        'INDEX_DAMAGED',
        `${reader.label}: ${found} pages in ${packFile(id)}, ${usedPageCount} expected`,
      );
  }
}

interface ChunkOfPages {
  readonly first: number;
  readonly end: number;
  readonly counts: number[];
  /** Data pages by the place of their pack. */
  readonly used: Map<number, number>;
  /** Places in extents where a page lies already. */
  readonly taken: PageBitmap;
}

/** Goes by every entry of a chunk, and looks where it points to. @returns true; throws at the first that is wrong. */
function countKinds(reader: CheckpointReader, { first, end, counts, used, taken }: ChunkOfPages): true {
  for (let page = first; page < end; page++) {
    const kind = reader.kindOf(page);
    counts[kind]!++;
    if (kind !== PAGE_KINDS.data) continue;
    const extent = reader.extentOf(page);
    if (!taken.claim(reader.ordinalOf(extent) * reader.extentPages + reader.slotOf(page)))
      throw new VmckptError(
        'INDEX_DAMAGED',
        `${reader.label}: page ${page} lies in the place of another one`,
      );
    const place = Math.floor(extent / NUMBERS_PER_PLACE);
    used.set(place, (used.get(place) ?? 0) + 1);
  }
  return true;
}

async function checkExtentFiles(
  check: ExtentCheck,
  { onProgress, only, signal, verified = new VerifiedFiles() }: CheckOptions,
): Promise<void> {
  const { reader, problems } = check;
  const { dataPageCount, fileBytes, supersededPageCount } = reader.manifest.pages;
  let doneBytes = 0;
  let pageCount: number | undefined = 0;
  for (const file of reader.extentFiles) {
    const beforeBytes = doneBytes;
    const onRead = (bytes: number) => onProgress?.((doneBytes = beforeBytes + bytes), fileBytes);
    const found =
      only?.has(file.name) === false
        ? undefined
        : await verified.once(check, file, () => checkExtentFile(check, file, { onRead, signal }));
    doneBytes = beforeBytes + lengthOf(file);
    onProgress?.(doneBytes, fileBytes);
    pageCount = found === undefined || pageCount === undefined ? undefined : pageCount + found;
  }
  if (pageCount !== undefined && pageCount !== dataPageCount + supersededPageCount)
    problems.add(
      'INDEX_DAMAGED',
      `${reader.label}: ${pageCount} pages in extents, ${dataPageCount + supersededPageCount} expected`,
    );
}

function lengthOf({ fd }: NumberedFile): number {
  return fstatSync(fd).size;
}

interface Verdict {
  /** Of the generation that it was verified in. */
  readonly label: string;
  readonly problemCount: number;
  readonly pageCount: number | undefined;
}

/** What is known of files that generations share. A hard link is the same file, a copy is not. */
export class VerifiedFiles {
  readonly #verdicts = new Map<string, Verdict>();

  /** The result of `verify`, which is called if the file was not verified before. Damage found then is named again. */
  async once(
    { reader, problems }: ExtentCheck,
    { fd, name }: NumberedFile,
    verify: () => Promise<number | undefined>,
  ): Promise<number | undefined> {
    const { dev, ino } = fstatSync(fd);
    const key = `${dev}:${ino}`;
    const known = this.#verdicts.get(key);
    if (known === undefined) {
      const before = problems.report.problemCount;
      const pageCount = await verify();
      const problemCount = problems.report.problemCount - before;
      this.#verdicts.set(key, { label: reader.label, problemCount, pageCount });
      return pageCount;
    }
    if (known.problemCount > 0)
      problems.add('EXTENT_DAMAGED', `${reader.label}/${name} is damaged: it is that of ${known.label}`);
    return known.pageCount;
  }
}
