import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Hints } from '../../../src/checkpoint/hints.js';
import { readWorkingSet, updateWorkingSet } from '../../../src/working-set/file.js';
import { temporaryDir } from './synthetic.js';

const ID = '0123456789abcdef0123456789abcdef';
const RAM_PAGES = 1024;

let dir: string;
beforeEach(() => {
  dir = temporaryDir();
  vi.stubEnv('XDG_STATE_HOME', path.join(dir, 'state'));
});
afterEach(() => vi.unstubAllEnvs());

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
  expect(existsSync(path.join(dir, 'state/vmckpt/hints', ID, 'working-set'))).toBe(true);
  expect(readWorkingSet(hints, RAM_PAGES).workingSet.restoreCount).toBe(1);
  const ofAnother = Hints.of(away, ID.replace('0', 'f'));
  expect(readWorkingSet(ofAnother, RAM_PAGES).workingSet.restoreCount).toBe(0);
});

it('are read beside the generation until this user has learnt something', async () => {
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
