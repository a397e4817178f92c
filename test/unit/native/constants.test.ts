/** Numbers that stand in both languages are the same numbers. */
import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';
import {
  CODECS,
  FORMAT1_PAGE_CHUNKS,
  HEADER_BYTES,
  NO_CHUNK,
  NUMBERS_PER_PLACE,
  PAGE_CHUNKS,
  PAGE_CHUNKS_SPEC,
  PLACE_COUNT,
  RECORD_CHUNKS,
} from '../../../src/checkpoint/format.js';
import { addonConstants, KEEPER_PATH } from '../../../src/native/index.js';
import { PRESENCE } from '../../../src/page-server/cache-layout.js';
import { LANES } from '../../../src/page-server/contracts.js';
import { MAX_EXTENT_PAGES, PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { MAX_TAKEOVERS } from '../../../src/restore/parents/this-process.js';
import { HELD, KEEPER_FD, SUCCESSOR_FLAG, VERB_FD } from '../../../src/serving-protocol/descriptors.js';
import { PATIENCE_FAULTS } from '../../../src/serving/postcopy/session.js';
import { MAX_TRACE_FAULTS } from '../../../src/working-set/trace.js';
import { ZERO_WINDOW_PAGES } from '../../../src/working-set/units.js';

test("the addon's", () => {
  expect(addonConstants()).toEqual({
    pageBytes: PAGE_BYTES,
    maxExtentPages: MAX_EXTENT_PAGES,
    fileHeaderBytes: HEADER_BYTES,
    recordChunkBytes: RECORD_CHUNKS.chunkBytes,
    pageChunkBytes: PAGE_CHUNKS.chunkBytes,
    format1PageChunkBytes: FORMAT1_PAGE_CHUNKS.chunkBytes,
    pageChunkEntryBytes: PAGE_CHUNKS_SPEC.entryBytes,
    noChunk: NO_CHUNK,
    numbersPerPlace: NUMBERS_PER_PLACE,
    placeCount: PLACE_COUNT,
    pageEntryBytes: PAGE_CHUNKS.entryBytes,
    extentRecordBytes: RECORD_CHUNKS.entryBytes,
    codecRaw: CODECS.raw,
    codecZstd: CODECS.zstd,
    kindAbsent: PAGE_KINDS.absent,
    kindZero: PAGE_KINDS.zero,
    kindFill: PAGE_KINDS.fill,
    kindData: PAGE_KINDS.data,
    zeroWindowPages: ZERO_WINDOW_PAGES,
    patienceMisses: PATIENCE_FAULTS,
    // One more than a trace may have, so that it is seen to be cut.
    maxTraceFaults: MAX_TRACE_FAULTS + 1,
    presenceHeaderBytes: PRESENCE.headerBytes,
    presenceBlockBytes: PRESENCE.blockBytes,
    presenceRefetchCountAt: PRESENCE.at.refetchCount,
    presenceRefetchesAt: PRESENCE.at.refetches,
    presenceRefetchSlots: PRESENCE.refetchSlots,
    laneDemand: LANES.indexOf('demand'),
    lanePredicted: LANES.indexOf('predicted'),
    laneRest: LANES.indexOf('rest'),
  });
});

test("the keeper's", () => {
  const lines = execFileSync(KEEPER_PATH, ['--constants'], { encoding: 'utf8' }).trimEnd().split('\n');
  const { slots, ...others } = Object.fromEntries(
    lines.map((line) => line.split('=') as [string, string]),
  ) as Record<string, string>;
  expect(others).toEqual({
    firstServerFd: String(VERB_FD),
    firstHeldFd: String(KEEPER_FD + 1),
    maxRestartsInARow: String(MAX_TAKEOVERS),
    successorFlag: SUCCESSOR_FLAG,
  });
  expect(Math.max(...Object.values(HELD))).toBeLessThan(Number(slots));
});
