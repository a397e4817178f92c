import path from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { holdGeneration } from '../../src/store/generation-use.js';
import { Store } from '../../src/store/store.js';
import type { PruneReport } from '../../src/vms/prune.js';
import { cliSuite } from '../support/cli.js';
import { storeGeneration } from '../support/stored.js';
import { endScriptedVms, startScriptedVm } from '../support/tiny-vm.js';

describe('prune', () => {
  const { run, directory, storeDir } = cliSuite();
  endScriptedVms();
  let name: string;
  let suffix = 0;

  beforeEach(async () => {
    name = `web${suffix++}`;
    for (let hour = 1; hour <= 3; hour++)
      await storeGeneration(storeDir, name, { created: `2026-01-05T0${hour}:30:00.000Z` });
  });

  const stored = async () => (await Store.open(storeDir)).generations(name);

  it('is refused without a rule, and with what is no number or duration', async () => {
    const missing = await run(['prune', name]);
    expect(missing).toMatchObject({ code: 2 });
    expect(missing.stderr).toMatch(/nothing says which generations to keep\n.*--keep-last 3/s);
    expect(await run(['prune', name, '--keep-last', '0'])).toMatchObject({ code: 2 });
    expect((await run(['prune', name, '--keep-last', '1.5'])).stderr).toContain('a whole number');
    expect((await run(['prune', name, '--keep-within', '2w'])).stderr).toContain('1y6m7d12h');
    expect(await run(['prune', `${name}@1`, '--keep-last', '1'])).toMatchObject({ code: 2 });
    expect(await run(['prune', 'none', '--keep-last', '1'])).toMatchObject({ code: 10 });
    expect(await stored()).toEqual([1, 2, 3]);
  });

  it('shows with --dry-run what it would delete, and then deletes it', async () => {
    const shown = await run(['prune', name, '--keep-within', '1h', '--keep-hourly', '1', '--dry-run']);
    expect(shown.code).toBe(0);
    expect(shown.stdout).toMatch(
      / 3 .*kept: within 1h, hourly\n.* 2 .*would be deleted: .*\n.* 1 .*would be/,
    );
    expect(await stored()).toEqual([1, 2, 3]);
    const { code, json } = await run(['--json', 'prune', name, '--keep-hourly', '1']);
    expect(code).toBe(0);
    const { kept, removed, failed, freedBytes } = json as PruneReport;
    expect(kept).toEqual([
      { name, generation: 3, created: '2026-01-05T03:30:00.000Z', reasons: ['hourly'], neededBy: null },
    ]);
    expect(removed.map(({ generation }) => generation)).toEqual([1, 2]);
    expect(failed).toEqual([]);
    expect(freedBytes).toBeGreaterThan(0);
    expect(await stored()).toEqual([3]);
  });

  it('keeps all with "unlimited", and takes rules from variables', async () => {
    expect(await run(['prune', name, '--keep-last', 'unlimited'])).toMatchObject({ code: 0 });
    expect(await stored()).toEqual([1, 2, 3]);
    expect(await run(['prune', name], { env: { VMCKPT_KEEP_LAST: '2' } })).toMatchObject({ code: 0 });
    expect(await stored()).toEqual([2, 3]);
  });

  it('fails while the name is being written, and is done in part if only that one is', async () => {
    const other = `${name}-other`;
    for (let generation = 1; generation <= 2; generation++) await storeGeneration(storeDir, other);
    const pending = await (await Store.open(storeDir)).begin(name);
    expect(await run(['prune', name, '--keep-last', '1'])).toMatchObject({ code: 11 });
    const partly = await run(['prune', '--keep-last', '1']);
    expect(partly.code).toBe(3);
    expect(partly.stdout).toMatch(/not deleted: .* is being written by process/);
    await pending.abort();
    expect(await stored()).toEqual([1, 2, 3]);
  });

  it('follows a save that has --keep options, which says what a process keeps', async () => {
    const { qmpSocket } = await startScriptedVm({ dir: directory, script: 'exec "$@"' });
    const use = holdGeneration(path.join(storeDir, name, '1'));
    const save = ['--json', 'save', `qmp:${qmpSocket}`, name];
    const first = await run([...save, '--keep-last', '2']);
    expect(first).toMatchObject({
      code: 0,
      json: { generation: 4, pruned: { removed: [{ generation: 2 }], failed: [] } },
    });
    expect(first.stderr).toContain(`${name}@1 stays: process ${process.pid} needs it.`);
    expect(await stored()).toEqual([1, 3, 4]);
    use.release();
    expect(await run([...save, '--keep-last', '0'])).toMatchObject({ code: 2 });
    expect(await run(save)).toMatchObject({ code: 0, json: { generation: 5, pruned: null } });
    expect(await stored()).toEqual([1, 3, 4, 5]);
  });
});
