/** native/core's fault path under sanitizers: fault-server.cc, built and run against a synthetic checkpoint. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EXTENT_INDEX_SPEC, HEADER_BYTES, RECORD } from '../../../src/checkpoint/format.js';
import type { Level } from '../../../src/checkpoint/extent-codec.js';
import type { Manifest } from '../../../src/checkpoint/manifest.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { hugePagesProblem, withHugePages } from '../../support/huge-pages.js';
import { manifestParts } from '../checkpoint/synthetic-pages.js';

const ROOT = path.join(import.meta.dirname, '../../..');
const PAGE_COUNT = 3000;
const WORDS_THAT_VARY = 256;
const SOURCES = [
  'checkpoint_image',
  'extent_map',
  'fault_background',
  'fault_huge',
  'fault_removal',
  'fault_server',
  'mapped_file',
  'page_table',
  'pidfd',
  'return_path',
  'userfaultfd',
].map((name) => `native/core/${name}.cc`);
const SANITIZERS = ['address,undefined', 'thread'];
const SCENARIOS = {
  'demand-only': 'gives four readers every page, and counts what it did',
  background: 'puts all data in place behind the faults',
  'take-over': 'goes on where a server before it has died, with its claims left behind',
  'two-machines': 'serves two machines in one process',
  damaged: 'never installs a page of a damaged extent, and says which it is',
  'cut-off': 'takes a file that shrinks under it for damage',
  unregistered: 'says that the memory is gone when its registration is',
  'return-path': 'reads the return path in pieces of every length, and hands on what is not its own',
  histogram: 'tells quantiles to a fifteenth',
  removal: 'shows zeros and never the image where the machine has given memory back',
  'silent-removal': 'does so where nobody has told of it',
  'hand-back': 'gives the memory back while it is used, and leaves nobody waiting',
};
const HUGE_PAGES = 5;

let directory: string;
const checkpoints: Record<string, Manifest> = {};

beforeAll(async () => {
  directory = mkdtempSync(path.join(tmpdir(), 'vmckpt-fault-server-'));
  for (const level of [1, 'none'] as const) checkpoints[level] = await writeCheckpoint(level);
  for (const sanitizer of SANITIZERS) build(sanitizer);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe.each(SANITIZERS)('the fault server, with -fsanitize=%s,', (sanitizer) => {
  test.each(Object.entries(SCENARIOS))('%s: %s', (scenario) => runScenario(sanitizer, scenario));

  const problem = hugePagesProblem(HUGE_PAGES);
  describe.skipIf(problem !== undefined)(
    `on huge pages${problem === undefined ? '' : ` (${problem})`}`,
    () => {
      withHugePages(HUGE_PAGES);
      test('huge: gathers each from the extents that it is spread over', () =>
        runScenario(sanitizer, 'huge'));
    },
  );
});

function runScenario(sanitizer: string, scenario: string): void {
  for (const [level, manifest] of Object.entries(checkpoints)) {
    const copy = path.join(directory, 'copy');
    cpSync(path.join(directory, level), copy, { recursive: true });
    if (scenario === 'damaged') damageExtent(copy, 2);
    const { extentCount, extentPages } = manifest.pages;
    const { pageIndexRoot, extentIndexRoot } = manifest.checksums;
    const args = [scenario, copy, PAGE_COUNT, extentCount, extentPages, pageIndexRoot, extentIndexRoot];
    const run = () => execFileSync(programOf(sanitizer), args.map(String), { timeout: 120_000 });
    expect(run).not.toThrow();
    rmSync(copy, { recursive: true });
  }
}

function programOf(sanitizer: string): string {
  return path.join(directory, `fault-server-${sanitizer}`);
}

function build(sanitizer: string): void {
  const flags = [
    '-std=c++20',
    '-O1',
    '-g',
    '-Wall',
    '-Wextra',
    '-Werror',
    `-fsanitize=${sanitizer}`,
    '-Inative',
  ];
  const main = 'test/unit/native/fault-server.cc';
  execFileSync('g++', [...flags, '-o', programOf(sanitizer), main, ...SOURCES, '-lzstd', '-pthread'], {
    cwd: ROOT,
  });
}

/** Pages as WordOf in fault-server.cc expects them. */
async function writeCheckpoint(level: Level): Promise<Manifest> {
  const generation = path.join(directory, String(level));
  mkdirSync(generation);
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: PAGE_COUNT * PAGE_BYTES }]);
  const writer = CheckpointWriter.create(generation, { layout, level });
  const words = new Uint32Array(PAGE_BYTES / 4);
  for (let page = 0; page < PAGE_COUNT; page++) {
    await writer.ready();
    if (page % 5 === 0) writer.fill(page, 0);
    else {
      words.fill((page & 0xff) * 0x01010101);
      if (page % 11 !== 0)
        for (let at = 0; at < WORDS_THAT_VARY; at++) words[at] = Math.imul(page * 1024 + at, 2654435761);
      writer.data(page, new Uint8Array(words.buffer), 0);
    }
  }
  return writer.finish(manifestParts(), Buffer.from('device state'));
}

function damageExtent(generation: string, extent: number): void {
  const record = new Uint32Array(EXTENT_INDEX_SPEC.entryWords);
  const index = openSync(path.join(generation, 'extent-index'), 'r');
  const at = HEADER_BYTES + extent * EXTENT_INDEX_SPEC.entryBytes;
  readSync(index, record, 0, EXTENT_INDEX_SPEC.entryBytes, at);
  const pages = openSync(path.join(generation, 'pages'), 'r+');
  writeSync(pages, 'damage', record[RECORD.offsetLow]! + 100);
}
