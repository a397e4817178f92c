/** A chain of generations of which a shared pack is damaged: named by all that meet it, and got rid of by the next save. */
import { execFileSync } from 'node:child_process';
import { renameSync, rmSync, truncateSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { packFile } from '../../src/checkpoint/format.js';
import { CheckpointReader } from '../../src/checkpoint/reader.js';
import type { Pack } from '../../src/checkpoint/manifest-schema.js';
import { PAGE_KINDS } from '../../src/pages/contracts.js';
import { listVms } from '../../src/vms/list.js';
import { BARE_WHOLE, examineBare, nextSweeps, startBare, type BareVm, type Sweep } from '../support/bare.js';
import { restoreGuest, stopRestored, useOwnFolders } from '../support/checkpointing.js';
import { startCli, type CliResult } from '../support/command.js';
import { flipExtents } from '../support/damage.js';
import { format2Manifest } from '../support/packs.js';
import { suiteDirectory, skipWithoutTracker } from '../support/vitest.js';

skipWithoutTracker();

const RAM_MB = 32;
const GENERATIONS = 3;

describe('a chain of generations with a damaged pack', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const damagedStore = path.join(dir, 'damaged');
  const newest = path.join(damagedStore, 'web', `${GENERATIONS}`);
  let guest: BareVm;
  let before: Sweep[];
  /** Of the newest generation, by the number of its extents: the first one is what most is in. */
  let packs: readonly Pack[];

  const cli = (store: string, ...args: string[]): Promise<CliResult> =>
    startCli(['--json', '--store', store, ...args]).ended;
  const save = (store: string, ...flags: string[]) =>
    cli(store, 'save', ...flags, `qmp:${guest.qmpSocket}`, 'web');

  beforeAll(async () => {
    guest = await startBare({ dir, ramMb: RAM_MB, words: 'pause=3' });
    before = await nextSweeps(guest);
    for (let count = 0; count < GENERATIONS; count++) {
      expect(await save(storeDir)).toMatchObject({ code: 0, json: { method: 'capture' } });
      await nextSweeps(guest);
    }
    packs = format2Manifest(path.join(storeDir, 'web', `${GENERATIONS}`)).packs;
    expect(packs.length).toBeGreaterThan(1);
  });
  beforeEach(() => {
    rmSync(damagedStore, { recursive: true, force: true });
    // With the links.
    execFileSync('cp', ['-a', storeDir, damagedStore]);
  });
  afterAll(async () => {
    await guest.stop();
  });

  const fileOf = (pack: Pack): string => path.join(newest, packFile(pack.id));

  /** In the generations that have it: a link is the same file, unless it is gone or another. */
  const harms: readonly (readonly [string, RegExp, () => void | Promise<void>])[] = [
    ['truncated', /^EXTENT_DAMAGED$/, () => truncateSync(fileOf(packs[0]!), packs[0]!.fileBytes - 4096)],
    ['missing', /^FILE_MISSING$/, () => rmSync(fileOf(packs[0]!))],
    // By its id, or by its length.
    ['swapped with another', /^(INDEX|EXTENT)_DAMAGED$/, () => swap(fileOf(packs[0]!), fileOf(packs[1]!))],
    ['flipped', /^EXTENT_DAMAGED$/, flipOne],
  ];

  /** In an extent of the first pack that a restore needs. */
  async function flipOne(): Promise<void> {
    const reader = await CheckpointReader.open(newest);
    const isInFirst = (page: number) =>
      reader.kindOf(page) === PAGE_KINDS.data &&
      reader.extentInfo(reader.extentOf(page)).file === packFile(packs[0]!.id);
    const page = Array.from({ length: reader.pageCount }, (_, number) => number).find(isInFirst)!;
    flipExtents(newest, reader, [reader.extentOf(page)]);
    reader.close();
  }

  it.each(harms)(
    'that is %s: check and restore name it, and nothing is restored',
    async (_title, code, harm) => {
      await harm();
      const checked = await cli(damagedStore, 'check', `web@${GENERATIONS}`);
      const name = new RegExp(`pack-(${packs[0]!.id}|${packs[1]!.id})`);
      expect({ code: checked.code, text: checked.stdout + checked.stderr }).toEqual({
        code: 13,
        text: expect.stringMatching(name) as string,
      });
      const flags = ['--as', 'other', '--mode', 'eager'];
      const restored = await cli(damagedStore, 'restore', ...flags, `web@${GENERATIONS}`);
      expect(restored).toMatchObject({
        code: 13,
        json: {
          error: {
            code: expect.stringMatching(code) as string,
            message: expect.stringMatching(name) as string,
          },
        },
      });
      expect(listVms()).toEqual([]);
    },
  );

  it.each(harms)('that is %s: a new generation can be had that is whole', async (title, _code, harm) => {
    await harm();
    // What is flipped is found when it is read, which a save does not.
    const isSeen = title !== 'flipped';
    const saved = await save(damagedStore, ...(isSeen ? [] : ['--full']));
    expect(saved).toMatchObject({ code: 0, json: { generation: GENERATIONS + 1 } });
    const reason = `Everything is stored, because web@${GENERATIONS} is damaged: `;
    expect(saved.stderr.includes(reason)).toBe(isSeen);
    expect(saved.stderr.trim().split('\n').length).toBe(1);
    expect((await cli(damagedStore, 'check', `web@${GENERATIONS + 1}`)).code).toBe(0);
  });

  it('that is flipped: a save that reads it, for the raw memory file, stores everything', async () => {
    await flipOne();
    const saved = await save(damagedStore, '--layout', 'raw');
    expect(saved).toMatchObject({ code: 0, json: { generation: GENERATIONS + 1 } });
    expect(saved.stderr).toMatch(/Everything is stored, because the generation before is damaged: extent /);
    expect((await cli(damagedStore, 'check', `web@${GENERATIONS + 1}`)).code).toBe(0);
  });

  it('is forgotten once a whole generation is restored', async () => {
    rmSync(fileOf(packs[0]!));
    await save(damagedStore);
    await guest.stop();
    const restored = await restoreGuest(guest, { storeDir: damagedStore, reference: 'web', qemu: 'system' });
    for (const sweep of before) expect(await examineBare(restored.console, sweep)).toEqual(BARE_WHOLE);
    await stopRestored();
  });
});

function swap(one: string, other: string): void {
  renameSync(one, `${one}.x`);
  renameSync(other, one);
  renameSync(`${one}.x`, other);
}
