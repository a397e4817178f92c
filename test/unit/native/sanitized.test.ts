/** The *.cc of this folder under sanitizers, each built and run against a synthetic checkpoint. */
import { execFile, execFileSync } from 'node:child_process';
import {
  closeSync,
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Hints } from '../../../src/checkpoint/hints.js';
import { HOT_PACK_FILE, packFile, packParts } from '../../../src/checkpoint/format.js';
import type { Level } from '../../../src/checkpoint/extent-codec.js';
import { CheckpointReader } from '../../../src/checkpoint/reader.js';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_KINDS } from '../../../src/pages/contracts.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { AdaptiveHistogram } from '../../../src/working-set/histogram.js';
import { refreshHotPack } from '../../../src/working-set/hot-pack.js';
import { installUnits } from '../../../src/working-set/units.js';
import { format2Manifest } from '../../support/packs.js';
import { hugePagesProblem, withHugePages } from '../../support/huge-pages.js';
import { manifestParts } from '../checkpoint/synthetic-pages.js';
import { putInOnePlace } from '../checkpoint/tampering.js';

const execFileAsync = promisify(execFile);
const ROOT = path.join(import.meta.dirname, '../../..');
const PAGE_COUNT = 3000;
const LEVELS = [1, 'none'] as const satisfies readonly Level[];
const WORDS_THAT_VARY = 256;
const SANITIZERS = ['address,undefined', 'thread'];

interface Program {
  readonly sources: readonly string[];
  readonly scenarios: Readonly<Record<string, string>>;
  /** Scenarios whose checkpoint has a hot pack, of extents 2, 5, 8 … */
  readonly packed?: readonly string[];
  /** Of these, those whose checkpoint is a next generation, and the hot pack that of the first. */
  readonly inherited?: readonly string[];
  /** Scenario → the extent that is damaged. */
  readonly damaged?: Readonly<Record<string, number>>;
}

const IMAGE = [
  'arriving_extents',
  'checkpoint_image',
  'checksum',
  'checksum_avx2',
  'extent_codec',
  'file_extents',
  'hot_pack',
  'install_order',
  'mapped_file',
  'packed_extents',
  'page_catalog',
  'page_table',
  'presence',
  'shared_file',
  'wants',
];
const PROGRAMS: Readonly<Record<string, Program>> = {
  'fault-server': {
    sources: [
      ...IMAGE,
      'fault_background',
      'fault_huge',
      'fault_removal',
      'fault_server',
      'fault_starvation',
      'pidfd',
      'return_path',
      'userfaultfd',
    ],
    scenarios: {
      'demand-only': 'gives four readers every page, and counts what it did',
      background: 'puts all data in place behind the faults',
      predicted: 'installs zero pages where they are predicted',
      'take-over': 'goes on where a server before it has died, with its claims left behind',
      withheld: 'leaves withheld pages out until they are wanted, or all else is in place',
      'rest-waits':
        'leaves the rest to faults until its time has come, and does not wait for that when it is to end',
      'rest-is-urgent': 'sends the rest before its time when much else than the prediction is asked for',
      registered: 'tells what waits at a userfaultfd, and changes nothing there',
      'two-machines': 'serves two machines in one process',
      damaged: 'never installs a page of a damaged extent, and says which it is',
      'shared-place': 'takes two pages in one place for damage, and leaves neither of them out',
      'cut-off': 'takes a file that shrinks under it for damage',
      starved: 'lets faults wait for a slow source, serves all others, and counts both',
      'starved-trace': 'notes a fault that is tried again and again once',
      'starved-background': 'brings what is late at last, and is not complete before',
      'starved-race': 'leaves no fault behind that the background has taken over and given back',
      'starved-take-over': 'leaves starving faults to a successor',
      arriving: 'serves a generation that is still arriving, and has damaged parts fetched once more',
      unregistered: 'says that the memory is gone when its registration is',
      'return-path': 'reads the return path in pieces of every length, and hands on what is not its own',
      histogram: 'tells quantiles to a fifteenth',
      removal: 'shows zeros and never the image where the machine has given memory back',
      'silent-removal': 'does so where nobody has told of it',
      'hand-back': 'gives the memory back while it is used, and leaves nobody waiting',
    },
    damaged: { damaged: 2 },
  },
  'extent-source': {
    sources: IMAGE,
    scenarios: {
      'equal-bytes': 'gives every extent as it was saved, copied or in place',
      concurrent: 'does so for four threads at once',
      damaged: 'names the one extent that is damaged',
      unavailable: 'tells what it does not have, and gives it once it has',
      'read-ahead': 'takes any announcement',
      'once-more': 'fetches what has arrived damaged once more',
      announced: 'asks for neighbours together',
    },
    packed: ['equal-bytes', 'concurrent', 'damaged', 'unavailable', 'read-ahead'],
    damaged: { damaged: 3 },
  },
  'memory-fill': {
    sources: [...IMAGE, 'memory_fill', 'process_memory'],
    scenarios: {
      whole: 'puts every page in its place, with one thread and with several',
      'in-order': 'writes listed pages and no others, and notes which',
      stopped: 'notes exactly what is in place when it is stopped',
      damaged: 'never writes a page of a damaged extent, and says which it is',
      packed: 'reads the extents of a hot pack from there',
      starved: 'waits for a slow source, unless it is stopped',
      arriving: 'waits for a generation that is still arriving',
      'damaged-pack': 'takes nothing from a hot pack that is not right',
      'inherited-pack': 'takes from the hot pack of an earlier generation what is still the same',
    },
    packed: ['packed', 'damaged-pack', 'inherited-pack'],
    inherited: ['inherited-pack'],
    damaged: { damaged: 2, packed: 2, 'inherited-pack': 2 },
  },
};

const HUGE_PAGES = 5;
/** A minute of compiling, on a machine that has much else to do. */
const BUILD_TIMEOUT_MS = 600_000;

let directory: string;

beforeAll(async () => {
  directory = mkdtempSync(path.join(tmpdir(), 'vmckpt-sanitized-'));
  for (const level of LEVELS) await writeCheckpoint(level);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const builds = Object.keys(PROGRAMS).flatMap((name) => SANITIZERS.map((sanitizer) => ({ name, sanitizer })));
describe.each(builds)('$name, with -fsanitize=$sanitizer,', ({ name, sanitizer }) => {
  let program: string;
  beforeAll(async () => (program = await build(name, sanitizer)), BUILD_TIMEOUT_MS);
  test.each(Object.entries(PROGRAMS[name]!.scenarios))('%s: %s', (scenario) =>
    runScenario(name, program, scenario),
  );

  const problem = name === 'fault-server' ? hugePagesProblem(HUGE_PAGES) : 'not its concern';
  describe.skipIf(problem !== undefined)(
    `on huge pages${problem === undefined ? '' : ` (${problem})`}`,
    () => {
      withHugePages(HUGE_PAGES);
      test('huge: gathers each from the extents that it is spread over', () =>
        runScenario(name, program, 'huge'));
    },
  );
});

async function runScenario(name: string, program: string, scenario: string): Promise<void> {
  const { packed = [], inherited = [], damaged = {} } = PROGRAMS[name]!;
  for (const level of LEVELS) {
    const copy = path.join(directory, 'copy');
    if (inherited.includes(scenario)) await writeNextGeneration(copy, level);
    else cpSync(path.join(directory, String(level)), copy, { recursive: true });
    if (packed.includes(scenario) && !inherited.includes(scenario)) await packExtents(copy);
    if (damaged[scenario] !== undefined) await damageExtent(copy, damaged[scenario]);
    if (scenario === 'shared-place') putInOnePlace(copy, 1, 2);
    writeFacts(copy);
    expect(() => execFileSync(program, [scenario, copy], { timeout: 120_000 })).not.toThrow();
    rmSync(copy, { recursive: true });
  }
}

/** What a program needs of the manifest, as scenario.h reads it. */
function writeFacts(generation: string): void {
  const manifest = format2Manifest(generation);
  const { packs, pages, checksums } = manifest;
  const lines = packs.map((pack) => {
    const { recordsOffset, recordTableOffset, chunksOffset } = packParts(pack);
    const { place, id, extentCount, chunkCount, recordsRoot } = pack;
    return [
      packFile(id),
      place,
      extentCount,
      recordsOffset,
      recordTableOffset,
      recordsRoot,
      chunksOffset,
      chunkCount,
      id,
    ];
  });
  const facts = [[PAGE_COUNT, pages.extentPages, checksums.pageIndexRoot], ...lines];
  writeFileSync(path.join(generation, 'facts'), facts.map((words) => `${words.join(' ')}\n`).join(''));
}

/** What several programs are made of is compiled once. */
async function build(name: string, sanitizer: string): Promise<string> {
  const sources = PROGRAMS[name]!.sources.map((source) => `native/core/${source}`);
  const flags = ['-g', '-pthread', `-fsanitize=${sanitizer}`];
  const compiled = [`test/unit/native/${name}`, ...sources].map((source) => ({
    source,
    object: path.join(directory, `${path.basename(source)}-${sanitizer}.o`),
  }));
  const missing = compiled.filter(({ object }) => !existsSync(object));
  const compileAll = async () => {
    for (let next; (next = missing.pop());) await compile(next.source, next.object, flags);
  };
  await Promise.all(Array.from({ length: availableParallelism() }, compileAll));
  const program = path.join(directory, `${name}-${sanitizer}`);
  const objects = compiled.map(({ object }) => object);
  await execFileAsync('g++', [...flags, '-o', program, ...objects, '-lzstd']);
  return program;
}

async function compile(source: string, object: string, flags: readonly string[]): Promise<void> {
  const strict = ['-std=c++20', '-O1', '-Wall', '-Wextra', '-Werror', '-Inative'];
  await execFileAsync('g++', [...strict, ...flags, '-c', '-o', object, `${source}.cc`], { cwd: ROOT });
}

async function writeCheckpoint(level: Level): Promise<void> {
  await writeGeneration(path.join(directory, String(level)), level);
}

/**
 * A generation of which a third was written anew, with the hot pack of the one before. That has been removed: its
 * packs have no other link.
 */
async function writeNextGeneration(generation: string, level: Level): Promise<void> {
  const former = path.join(directory, 'former');
  await writeGeneration(former, level, { oldPages: PAGE_COUNT / 3 });
  await packExtents(former);
  await writeGeneration(generation, level, { former });
  linkSync(path.join(former, HOT_PACK_FILE), path.join(generation, HOT_PACK_FILE));
  rmSync(former, { recursive: true });
}

/** Pages as WordOf in scenario.h expects them, but for the last `oldPages`. */
async function writeGeneration(
  generation: string,
  level: Level,
  { oldPages = 0, former }: { readonly oldPages?: number; readonly former?: string } = {},
): Promise<void> {
  mkdirSync(generation);
  const layout = new RamLayout([{ name: 'pc.ram', usedBytes: PAGE_COUNT * PAGE_BYTES }]);
  const chain = { formerDir: former };
  const writer = CheckpointWriter.create(generation, { layout, level, chain });
  const words = new Uint32Array(PAGE_BYTES / 4);
  for (let page = 0; page < PAGE_COUNT; page++) {
    await writer.ready();
    if (page % 5 === 0) writer.fill(page, 0);
    else {
      words.fill((page & 0xff) * 0x01010101 + (page >= PAGE_COUNT - oldPages ? 1 : 0));
      if (page % 11 !== 0)
        for (let at = 0; at < WORDS_THAT_VARY; at++) words[at] = Math.imul(page * 1024 + at, 2654435761);
      writer.data(page, new Uint8Array(words.buffer), 0);
    }
  }
  await writer.finish(manifestParts(), Buffer.from('device state'));
}

async function packExtents(generation: string): Promise<void> {
  const reader = await CheckpointReader.open(generation);
  const units = installUnits(reader);
  const entries = [];
  for (let page = 0; page < PAGE_COUNT; page++)
    if (reader.kindOf(page) === PAGE_KINDS.data && reader.extentOf(page) % 3 === 2)
      entries.push({ leader: units.leaderOf(page), bins: [1, 0, 0] as const, isMember: true });
  const histogram = new AdaptiveHistogram(entries);
  expect(await refreshHotPack(Hints.beside(generation), reader, { histogram, units })).toBeUndefined();
  reader.close();
}

async function damageExtent(generation: string, extent: number): Promise<void> {
  const reader = await CheckpointReader.open(generation);
  const pack = openSync(path.join(generation, reader.extentInfo(extent).file), 'r+');
  writeSync(pack, 'damage', reader.extentInfo(extent).offset + 100);
  closeSync(pack);
  reader.close();
}
