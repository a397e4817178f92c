import { linkSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { holdGeneration } from '../../../src/store/generation-use.js';
import { Store } from '../../../src/store/store.js';
import { prune, type PruneReport } from '../../../src/vms/prune.js';
import { storeGeneration } from '../../support/stored.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const DAY_MS = 86_400_000;

/** Generations 1, 2, … of `name`, a day apart. */
async function daily(count: number, { storeDir = temporaryDir(), name = 'web' } = {}): Promise<string> {
  for (let day = 0; day < count; day++)
    await storeGeneration(storeDir, name, {
      created: new Date(Date.UTC(2026, 0, 5, 12) + day * DAY_MS).toISOString(),
    });
  return storeDir;
}

function numbers(labels: readonly { name: string; generation: number }[]): string[] {
  return labels.map(({ name, generation }) => `${name}@${generation}`);
}

async function storedIn(storeDir: string): Promise<string[]> {
  return numbers(await (await Store.open(storeDir)).list());
}

function folderBytes(dir: string): number {
  return readdirSync(dir).reduce((sum, file) => sum + statSync(path.join(dir, file)).blocks * 512, 0);
}

describe('pruning', () => {
  it('removes what no rule keeps, each checkpoint by itself, and says why the others stay', async () => {
    const storeDir = await daily(5);
    await daily(1, { storeDir, name: 'db' });
    const bytes = folderBytes(path.join(storeDir, 'web/2'));
    const report = await prune({ storeDir, policy: { last: 1, within: { days: 1 }, daily: 2 } });
    expect(report).toMatchObject({ isDryRun: false, failed: [] });
    expect(report.kept).toEqual([
      expect.objectContaining({ name: 'db', generation: 1, reasons: ['last', 'within 1d', 'daily'] }),
      expect.objectContaining({ name: 'web', generation: 4, reasons: ['daily'], neededBy: null }),
      expect.objectContaining({ name: 'web', generation: 5, reasons: ['last', 'within 1d', 'daily'] }),
    ]);
    expect(numbers(report.removed)).toEqual(['web@1', 'web@2', 'web@3']);
    expect(report.removed[1]).toMatchObject({ created: '2026-01-06T12:00:00.000Z', freedBytes: bytes });
    expect(report.freedBytes).toBe(report.removed.reduce((sum, { freedBytes }) => sum + freedBytes, 0));
    expect(await storedIn(storeDir)).toEqual(['db@1', 'web@4', 'web@5']);
  });

  it('looks at one name only, if it is given', async () => {
    const storeDir = await daily(2);
    await daily(2, { storeDir, name: 'db' });
    await prune({ storeDir, name: 'db', policy: { last: 1 } });
    expect(await storedIn(storeDir)).toEqual(['db@2', 'web@1', 'web@2']);
    await expect(prune({ storeDir, name: 'wev', policy: { last: 1 } })).rejects.toMatchObject({
      code: 'NO_CHECKPOINT',
    });
  });

  it('frees what the last link to a file frees, and foretells it', async () => {
    const storeDir = await daily(4);
    const folder = (generation: number) => path.join(storeDir, 'web', String(generation));
    // A pack of 1 and 2, and one of 3 and 4, as generations share them.
    writeFileSync(path.join(folder(1), 'pack-a'), Buffer.alloc(256 << 10, 1));
    linkSync(path.join(folder(1), 'pack-a'), path.join(folder(2), 'pack-a'));
    writeFileSync(path.join(folder(3), 'pack-b'), Buffer.alloc(512 << 10, 2));
    linkSync(path.join(folder(3), 'pack-b'), path.join(folder(4), 'pack-b'));
    const own = [1, 2, 3].map((generation) => folderBytes(folder(generation)));
    const options = { storeDir, policy: { last: 1 } };
    const foretold = await prune({ ...options, isDryRun: true });
    expect(await storedIn(storeDir)).toHaveLength(4);
    const done = await prune(options);
    const freed = ({ removed }: PruneReport) => removed.map(({ freedBytes }) => freedBytes);
    expect(freed(foretold)).toEqual([own[0]! - (256 << 10), own[1], own[2]! - (512 << 10)]);
    expect(done).toEqual({ ...foretold, isDryRun: false });
  });

  it('keeps what a process uses, and what cannot be read; neither counts for a rule', async () => {
    const storeDir = await daily(5);
    const use = holdGeneration(path.join(storeDir, 'web/1'));
    writeFileSync(path.join(storeDir, 'web/5/manifest.json'), '{');
    const { kept, removed } = await prune({ storeDir, policy: { last: 2 } });
    expect(kept).toEqual([
      expect.objectContaining({ generation: 1, reasons: ['needed'], neededBy: `process ${process.pid}` }),
      expect.objectContaining({ generation: 3, reasons: ['last'] }),
      expect.objectContaining({ generation: 4, reasons: ['last'] }),
      expect.objectContaining({ generation: 5, created: null, reasons: ['unreadable'] }),
    ]);
    expect(numbers(removed)).toEqual(['web@2']);
    use.release();
    expect(numbers((await prune({ storeDir, policy: { last: 2 } })).removed)).toEqual(['web@1']);
  });

  it('goes on with other names where one is being written', async () => {
    const storeDir = await daily(2);
    await daily(2, { storeDir, name: 'db' });
    const pending = await (await Store.open(storeDir)).begin('db');
    const { removed, failed } = await prune({ storeDir, policy: { last: 1 } });
    expect(failed).toEqual([expect.objectContaining({ name: 'db', generation: 1, code: 'STORE_LOCKED' })]);
    expect(numbers(removed)).toEqual(['web@1']);
    await pending.abort();
    expect(await storedIn(storeDir)).toEqual(['db@1', 'db@2', 'web@2']);
  });

  it('leaves whole generations when it is interrupted between two of them', async () => {
    const storeDir = await daily(4);
    const interrupt = new Error('interrupted');
    let asked = 0;
    const throwIfAborted = () => {
      if (asked++ === 1) throw interrupt;
    };
    const signal = { throwIfAborted } as AbortSignal;
    await expect(prune({ storeDir, policy: { last: 1 }, signal })).rejects.toBe(interrupt);
    expect(await storedIn(storeDir)).toEqual(['web@2', 'web@3', 'web@4']);
    expect(await (await Store.open(storeDir)).leftovers()).toEqual([]);
  });

  it('refuses a policy that keeps nothing', async () => {
    const storeDir = await daily(1);
    await expect(prune({ storeDir, policy: { last: 0 } })).rejects.toMatchObject({ code: 'USAGE' });
    expect(await storedIn(storeDir)).toEqual(['web@1']);
  });
});
