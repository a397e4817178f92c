import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { VmJournal } from '../../src/save/vm-journal.js';
import { readMigrationSettings, queryMigrate } from '../../src/qemu/migration-control.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { cliSuite } from '../support/cli.js';
import { startGuest, type Guest } from '../support/guest.js';
import { spawnTracked } from '../support/processes.js';
import { poll } from '../../src/util/deadline.js';

/** Many times the interval of the guest's heartbeat. */
const FREEZE_MS = 2_000;

describe('vmckpt rescue', () => {
  const { run, directory, runtimeDir } = cliSuite();
  let guest: Guest | undefined;
  afterAll(async () => guest?.stop());

  it('refuses what is no QEMU, and what is no process', async () => {
    const bystander = spawnTracked(['sleep', '1000'], path.join(directory, 'log'));
    expect(await run(['--json', 'rescue', String(bystander.pid)])).toMatchObject({
      code: 2,
      json: { error: { code: 'USAGE' } },
    });
    bystander.kill('SIGKILL');
    expect(await run(['--json', 'rescue', String(2 ** 22 + 1)])).toMatchObject({
      code: 10,
      json: { error: { code: 'NO_SUCH_VM' } },
    });
  });

  it('frees a VM whose snapshot lost its receiver, and puts its settings right', async () => {
    guest = await startGuest({ dir: directory });
    await guest.waitReady();
    const pid = String(guest.pid);

    // While a vmckpt saves it, a VM is not touched.
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    const journal = VmJournal.open(identifyProcess(guest.pid)!);
    expect(await run(['--json', 'rescue', pid])).toMatchObject({
      code: 11,
      json: { error: { code: 'VM_BUSY' } },
    });
    journal.close();

    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    const capabilities = [{ capability: 'background-snapshot', state: true }];
    await qmp.execute('migrate-set-capabilities', { capabilities });
    await qmp.execute('migrate', { uri: 'exec:head -c 20000000 >/dev/null' });
    await poll(async () => ((await queryMigrate(qmp)).status === 'failed' ? true : undefined), {
      what: 'the snapshot to fail',
      timeoutMs: 30_000,
      everyMs: 20,
    });
    await qmp.close();
    // Not at once: until it writes to protected memory the guest runs on.
    await sleep(FREEZE_MS);
    const frozen = await guest.console.nextHeartbeat(FREEZE_MS).then(
      () => false,
      () => true,
    );

    const rescued = await run(['--json', 'rescue', pid, '--qmp', guest.qmpSocket]);
    expect(rescued).toMatchObject({ code: 0, json: { pid: guest.pid, settingsPutRight: true } });
    // QEMU 7.2 leaves the protection on; later versions do not.
    expect((rescued.json as { regions: number }).regions > 0).toBe(frozen);
    await guest.console.nextHeartbeat();
    expect(await guest.console.verify()).toMatchObject({ ok: true, bad: 0 });
    const after = await QmpClient.connect({ path: guest.qmpSocket });
    expect((await readMigrationSettings(after)).capabilities['background-snapshot']).toBe(false);
    await after.close();

    const again = await run(['rescue', pid]);
    expect(again).toMatchObject({ code: 0, stdout: expect.stringContaining('Nothing of process') as string });
    // Nothing is known of its settings.
    expect(again.stderr).toBe('');
  });
});
