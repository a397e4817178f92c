import path from 'node:path';
import { expect, test } from 'vitest';
import { pruneOlder } from '../../../src/save/prune-older.js';
import { Store } from '../../../src/store/store.js';
import { storeGeneration } from '../../support/stored.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

test('what keeps older generations from being removed after a save is told, and does not fail it', async () => {
  const storeDir = path.join(temporaryDir(), 'store');
  const said: string[] = [];
  const options = { storeDir, name: 'web', keep: { last: 1 }, onMessage: (text: string) => said.push(text) };
  expect(await pruneOlder(options)).toBeNull();
  expect(said.splice(0)).toEqual([expect.stringMatching(/^The older generations stay: there is no store/)]);

  for (let generation = 1; generation <= 2; generation++) await storeGeneration(storeDir, 'web');
  const store = await Store.open(storeDir);
  const next = await store.begin('web');
  expect(await pruneOlder(options)).toMatchObject({ removed: [], failed: [{ generation: 1 }] });
  expect(said.splice(0)).toEqual([`web@1 stays: "web" is being written by process ${process.pid}.`]);
  await next.abort();
  expect(await pruneOlder(options)).toMatchObject({ removed: [{ generation: 1 }], failed: [] });
  expect(said).toEqual([]);
  expect(await store.generations('web')).toEqual([2]);
});
