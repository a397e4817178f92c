import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Hints } from '../../../src/checkpoint/hints.js';
import { readWorkingSet, updateWorkingSet } from '../../../src/working-set/file.js';
import { smallCheckpoint } from './small-checkpoint.js';
import { temporaryDir } from './synthetic.js';

const ID = '0123456789abcdef0123456789abcdef';
const RAM_PAGES = 1024;

let dir: string;
beforeEach(() => {
  dir = temporaryDir();
  vi.stubEnv('XDG_STATE_HOME', path.join(dir, 'state'));
});
afterEach(() => vi.unstubAllEnvs());

const hintsOf = (name: string) => path.join(dir, 'state/vmckpt/hints', name);

const oneMore = (known: ReturnType<typeof readWorkingSet>['workingSet']) => ({
  ...known,
  restoreCount: known.restoreCount + 1,
});

it('lie beside a generation that this user may write to', () => {
  const hints = Hints.of(dir, ID);
  expect(hints.areBeside).toBe(true);
  expect([hints.find('a'), hints.place('a')]).toEqual([path.join(dir, 'a'), path.join(dir, 'a')]);
});

it('lie in the state folder, by id, where nothing can be written beside the generation', async () => {
  // Not there, and so not to be written to by any user.
  const away = path.join(dir, 'away');
  const hints = Hints.of(away, ID);
  expect(hints.areBeside).toBe(false);
  expect(await updateWorkingSet(hints, RAM_PAGES, oneMore)).toBeUndefined();
  expect(existsSync(path.join(hintsOf(path.basename(dir)), ID, 'working-set'))).toBe(true);
  expect(readWorkingSet(hints, RAM_PAGES).workingSet.restoreCount).toBe(1);
  const ofAnother = Hints.of(away, ID.replace('0', 'f'));
  expect(readWorkingSet(ofAnother, RAM_PAGES).workingSet.restoreCount).toBe(0);
});

it('are read beside the generation until this user has learned something', async () => {
  const away = path.join(dir, 'away');
  const hints = Hints.of(away, ID);
  mkdirSync(away);
  await updateWorkingSet(Hints.beside(away), RAM_PAGES, oneMore);
  expect(readWorkingSet(hints, RAM_PAGES).workingSet.restoreCount).toBe(1);
  await updateWorkingSet(hints, RAM_PAGES, oneMore);
  expect(readWorkingSet(hints, RAM_PAGES).workingSet.restoreCount).toBe(2);
  expect(readWorkingSet(Hints.beside(away), RAM_PAGES).workingSet.restoreCount).toBe(1);
  writeFileSync(path.join(away, 'hot-pack'), '');
  expect(hints.find('hot-pack')).toBe(path.join(away, 'hot-pack'));
});

it('of stores that are gone go when they have not changed for months', async () => {
  const months = new Date(Date.now() - 100 * 24 * 3_600_000);
  const learn = async (place: string, number: number): Promise<string> => {
    const id = `${number}`.padStart(32, '0');
    expect(await updateWorkingSet(Hints.of(path.join(dir, place), id), RAM_PAGES, oneMore)).toBeUndefined();
    return id;
  };
  const old = await learn('gone-1/web/1', 1);
  utimesSync(path.join(hintsOf('web'), old), months, months);
  const fresh = await learn('gone-2/web/2', 2);
  const oldOfAnother = await learn('gone-3/db/1', 3);
  utimesSync(path.join(hintsOf('db'), oldOfAnother), months, months);
  const latest = await learn('store/web/1', 4);
  expect(readdirSync(hintsOf('web')).sort()).toEqual([fresh, latest]);
  expect(existsSync(hintsOf('db'))).toBe(false);
});

it('go with their generation, when a new one of the same name in the same store gets its first hint', async () => {
  const web = path.join(dir, 'store/web');
  const generationWithHints = async (place: string): Promise<string> => {
    const { dir: written, reader } = await smallCheckpoint(1);
    const { id } = reader.manifest;
    reader.close();
    expect(await updateWorkingSet(Hints.of(place, id), RAM_PAGES, oneMore)).toBeUndefined();
    mkdirSync(path.dirname(place), { recursive: true });
    renameSync(written, place);
    return id;
  };
  const removed = await generationWithHints(path.join(web, '1'));
  const replaced = await generationWithHints(path.join(web, '2'));
  const kept = await generationWithHints(path.join(web, '3'));
  const unreadable = await generationWithHints(path.join(web, '4'));
  const elsewhere = await generationWithHints(path.join(dir, 'not-mounted/web/1'));
  expect(readdirSync(hintsOf('web')).sort()).toEqual([removed, replaced, kept, unreadable, elsewhere].sort());

  rmSync(path.join(dir, 'not-mounted'), { recursive: true });
  writeFileSync(path.join(web, '4/manifest.json'), 'damaged');
  for (const gone of ['1', '2']) rmSync(path.join(web, gone), { recursive: true });
  // A later generation has got the number of a removed one.
  renameSync((await smallCheckpoint(1)).dir, path.join(web, '2'));
  const latest = await generationWithHints(path.join(web, '5'));
  expect(readdirSync(hintsOf('web')).sort()).toEqual([kept, unreadable, elsewhere, latest].sort());
});
