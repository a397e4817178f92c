import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { VmJournal } from '../../src/save/vm-journal.js';
import { readMigrationSettings, queryMigrate } from '../../src/qemu/migration-control.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { cliSuite } from '../support/cli.js';
import { startGuest, type Guest } from '../support/guest.js';
import { spawnTracked } from '../support/processes.js';
import { BACKSTOP_MS, until } from '../support/until.js';

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
    await until('the snapshot to fail', async () => (await queryMigrate(qmp)).status === 'failed');
    await qmp.close();
    // QEMU 7.2 leaves the protection on; later versions do not.
    const freezes = qmp.version.major < 10;
    const beats = () =>
      guest!.console.nextHeartbeat(freezes ? FREEZE_MS : BACKSTOP_MS).then(
        () => true,
        () => false,
      );
    // Not at once: until it writes to protected memory the guest runs on.
    if (freezes) await until('the guest to freeze', async () => !(await beats()));
    else expect(await beats()).toBe(true);

    const rescued = await run(['--json', 'rescue', pid, '--qmp', guest.qmpSocket]);
    expect(rescued).toMatchObject({ code: 0, json: { pid: guest.pid, settingsPutRight: true } });
    expect((rescued.json as { regions: number }).regions > 0).toBe(freezes);
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
