import {
  closeSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { Hints } from '../../src/checkpoint/hints.js';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import { readWorkingSet } from '../../src/working-set/file.js';
import { installUnits } from '../../src/working-set/units.js';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
} from '../support/checkpointing.js';
import type { Heartbeat } from '../support/console.js';
import { Console } from '../support/console.js';
import { startGuest, type Guest } from '../support/guest.js';
import { BACKSTOP_MS } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { packParts } from '../../src/checkpoint/format.js';
import { format2Manifest, ownPack } from '../support/packs.js';

interface Wishes {
  readonly explore?: number;
  readonly mode?: 'prefetch' | 'lazy';
  readonly path?: 'auto' | 'direct' | 'stream';
}

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };

describeOnEachQemu('a guest that is restored again and again', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const generationDir = path.join(storeDir, 'web/1');
  let guest: Guest;
  let before: Heartbeat;

  beforeAll(async () => {
    guest = await startGuest({ dir, qemu });
    await guest.waitReady();
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'web' });
    // Its processes do nothing now but write a heartbeat ten times a second.
    await guest.console.idle();
    await saveGuest(guest, { storeDir, name: 'idle' });
    await guest.stop();
  });
  afterEach(stopRestored);
  afterAll(async () => guest.stop());

  const restoreOnce = async (wishes: Wishes = {}) => {
    const { mode = 'prefetch', path = 'auto', explore = 0 } = wishes;
    const prefetch = { budgetMs: BACKSTOP_MS, explore };
    const restored = await restoreGuest(guest, { storeDir, reference: 'web', qemu, mode, path, prefetch });
    expect(await examineGuest(restored.console, before)).toEqual(WHOLE);
    await restored.stop();
    return restored.report;
  };

  it('touches again what it wrote to while it was saved, and little else', async () => {
    const idleDir = path.join(storeDir, 'idle/1');
    const written = await unitsOf(idleDir, 'predicted');
    expect(written.size).toBeGreaterThan(0);
    const beats = async () => {
      const console = await Console.connect(guest.consoleSocket);
      for (let beat = 0; beat < 10; beat++) await console.nextHeartbeat();
      console.close();
    };
    // Nothing else puts memory in place meanwhile: what the guest touches is what it asks for.
    const idle = { storeDir, reference: 'idle', qemu, background: 'when-told', exercise: beats } as const;
    const { report } = await restoreGuest(guest, idle);
    expect(report.prefetchedPages).toBe(0);
    const touched = await unitsOf(idleDir, 'asked for last');
    expect(shareOf(written, touched)).toBeGreaterThan(0.5);
    expect(shareOf(await unitsOf(idleDir, 'all with data'), touched)).toBeLessThan(0.25);
  });

  it('has more and more of what it touches in place before it asks', async () => {
    rmSync(path.join(generationDir, 'working-set'), { force: true });
    const first = await restoreOnce();
    expect(first).toMatchObject({ mode: 'prefetch', path: 'direct', prefetchedPages: 0 });
    expect(first.demandFaults).toBeGreaterThan(0);
    for (let run = 2; run <= 4; run++) {
      const predicted = await unitsOf(generationDir, 'predicted');
      expect((await restoreOnce()).prefetchedPages).toBeGreaterThan(0);
      // Without a prediction it is nearly all of them; how many others there are depends on the host.
      expect(shareOf(predicted, await unitsOf(generationDir, 'asked for last'))).toBeLessThan(0.7);
    }
  });

  it.each(['direct', 'stream'] as const)(
    'finds itself whole when half of the prediction is withheld, and its faults there are told apart (%s)',
    async (path) => {
      const { demandFaults, withheldFaults } = await restoreOnce({ explore: 0.5, path });
      expect(withheldFaults).toBeGreaterThan(0);
      expect(withheldFaults).toBeLessThanOrEqual(demandFaults);
    },
  );

  it('learns and is prefetched through the stream, too', async () => {
    rmSync(path.join(generationDir, 'working-set'));
    expect(await restoreOnce({ path: 'stream' })).toMatchObject({ path: 'stream', prefetchedPages: 0 });
    const predicted = await unitsOf(generationDir, 'predicted');
    expect(predicted.size).toBeGreaterThan(50);
    const { prefetchedPages } = await restoreOnce({ path: 'stream', explore: 0.1 });
    expect(prefetchedPages).toBeGreaterThan(predicted.size / 2);
    expect(shareOf(predicted, await unitsOf(generationDir, 'asked for last'))).toBeLessThan(0.7);
    // What one path has taught the other one uses.
    expect((await restoreOnce()).prefetchedPages).toBeGreaterThan(predicted.size / 2);
  });

  it('begins its next generation with what restores of this one have taught', async () => {
    const known = await unitsOf(generationDir, 'predicted');
    const restored = await restoreGuest(guest, { storeDir, reference: 'web', qemu });
    await saveGuest(guest, { storeDir, name: 'web' });
    await restored.stop();
    const nextDir = path.join(storeDir, 'web/2');
    const inherited = await unitsOf(nextDir, 'predicted');
    expect(inherited.size).toBeGreaterThan(known.size / 2);
    // Most extents are the same: so is the file with copies of them.
    const hotPackOf = (dir: string) => statSync(path.join(dir, 'hot-pack')).ino;
    expect(hotPackOf(nextDir)).toBe(hotPackOf(generationDir));
    await (await restoreGuest(guest, { storeDir, reference: 'web@2', qemu })).stop();
    expect(shareOf(await unitsOf(nextDir, 'asked for last'), inherited)).toBeGreaterThan(0.4);
    const next = await restoreGuest(guest, { storeDir, reference: 'web@2', qemu, mode: 'prefetch' });
    expect(next.report.prefetchedPages).toBeGreaterThan(inherited.size / 2);
    expect(await examineGuest(next.console, before)).toEqual(WHOLE);
    await next.stop();
    rmSync(nextDir, { recursive: true });
  });

  it('teaches its working set without a prediction, too', async () => {
    const report = await restoreOnce({ mode: 'lazy' });
    expect(report).toMatchObject({ mode: 'lazy', prefetchedPages: 0 });
  });

  it('is not run when what it would touch first is damaged', async () => {
    const pages = openSync(ownPack(generationDir), 'r+');
    const flip = () => {
      const byte = Buffer.alloc(1);
      const size = packParts(format2Manifest(generationDir).packs.at(-1)!).recordsOffset;
      for (let at = 10_000; at < size; at += 20_000) {
        readSync(pages, byte, 0, 1, at);
        byte[0]! ^= 1;
        writeSync(pages, byte, 0, 1, at);
      }
    };
    flip();
    // It has a sound copy.
    rmSync(path.join(generationDir, 'hot-pack'));
    await expect(restoreOnce()).rejects.toMatchObject({ code: 'EXTENT_DAMAGED' });
    flip();
    closeSync(pages);
  });

  it('is restored without a prediction when its working set is damaged', async () => {
    const file = path.join(generationDir, 'working-set');
    const bytes = readFileSync(file);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(file, bytes);
    expect((await restoreOnce()).prefetchedPages).toBe(0);
  });
});

/** By their leaders. */
async function unitsOf(
  generationDir: string,
  which: 'predicted' | 'asked for last' | 'all with data',
): Promise<Set<number>> {
  const reader = await CheckpointReader.open(generationDir);
  const units = installUnits(reader);
  const { histogram, lastTrace } = readWorkingSet(Hints.beside(generationDir), units.pageCount).workingSet;
  const pages = {
    predicted: () => histogram.entries.filter(({ isMember }) => isMember).map(({ leader }) => leader),
    'asked for last': () => Array.from(lastTrace!.faultPages),
    'all with data': () =>
      Array.from({ length: units.pageCount }, (_, page) => page).filter((page) => units.holdsData(page)),
  }[which]();
  const leaders = new Set(pages.map((page) => units.leaderOf(page)));
  reader.close();
  return leaders;
}

function shareOf(units: ReadonlySet<number>, among: ReadonlySet<number>): number {
  return [...units].filter((leader) => among.has(leader)).length / units.size;
}
