/** `restore --count N`, as a user runs it. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import type { ClonesReport } from '../../src/restore/clones.js';
import type { RestoreReport } from '../../src/restore/report.js';
import { listVms } from '../../src/vms/list.js';
import { stopVm } from '../../src/vms/stop.js';
import { qemuBinary } from '../support/cache.js';
import { examineGuest, saveGuest, useOwnFolders } from '../support/checkpointing.js';
import { isRoot } from '../support/cli.js';
import { startCli, type CliOptions, type RunningCli } from '../support/command.js';
import { Console, type Heartbeat } from '../support/console.js';
import { untilRunning } from '../support/faults.js';
import { startGuest, type Guest } from '../support/guest.js';
import { killAtExit } from '../support/processes.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };
/** A network of its own, in which five ports can be had. */
const FIVE_PORTS = [
  ...['unshare', '--net', 'sh', '-c'],
  'ip link set lo up; echo 40000 40004 >/proc/sys/net/ipv4/ip_local_port_range; exec "$0" "$@"',
];

describeOnEachQemu('restore --count', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  let guest: Guest;
  let before: Heartbeat;

  beforeAll(async () => {
    guest = await startGuest({ dir, qemu, fillMb: 64 });
    await guest.waitReady();
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'web' });
  });
  afterEach(async () => {
    for (const { name } of listVms()) await stopVm(name);
  });
  afterAll(async () => guest.stop());

  function start(args: readonly string[], options: CliOptions = {}): RunningCli {
    const common = ['--store', storeDir, '--json', 'restore', '--trust-command-line'];
    return startCli([...common, '--qemu', qemuBinary(qemu), ...args], options);
  }

  async function examine({ moved, qemuPid }: RestoreReport): Promise<object> {
    killAtExit(qemuPid!);
    const console = await Console.connect(moved.find(({ from }) => from === guest.consoleSocket)!.to);
    const findings = await examineGuest(console, before);
    console.close();
    return findings;
  }

  it('starts clones beside the original, each of which finds itself whole; numbers go on', async () => {
    const { code, json } = await start(['web', '--count', '3']).ended;
    const { clones, ...document } = json as ClonesReport;
    expect([code, document]).toEqual([0, { name: 'web', generation: 1, failed: [] }]);
    expect(clones.map(({ vmName }) => vmName)).toEqual(['web.1', 'web.2', 'web.3']);
    for (const clone of clones) expect(await examine(clone)).toEqual(WHOLE);
    const more = (await start(['web', '--count', '1', '--detach']).ended).json as ClonesReport;
    const other = (await start(['web', '--count', '1', '--as', 'twin']).ended).json as ClonesReport;
    expect([...more.clones, ...other.clones].map(({ vmName }) => vmName)).toEqual(['web.4', 'twin.1']);
    const stopped = await startCli(['--json', 'stop', 'web.1', 'web.2', 'web.9']).ended;
    expect(stopped).toMatchObject({
      code: 3,
      json: {
        stopped: [{ name: 'web.1' }, { name: 'web.2' }],
        failed: [{ name: 'web.9', code: 'NO_SUCH_VM' }],
      },
    });
  });

  it('passes over numbers that another restore takes meanwhile', async () => {
    const restores = [1, 2].map(() => start(['web', '--count', '2', '--detach']).ended);
    const found = await Promise.all(restores);
    expect(found.map(({ code }) => code)).toEqual([0, 0]);
    const names = found.flatMap(({ json }) => (json as ClonesReport).clones.map(({ vmName }) => vmName));
    expect(names.sort()).toEqual(['web.1', 'web.2', 'web.3', 'web.4']);
  });

  it.runIf(isRoot)('leaves nothing of a clone that cannot have its ports, and the others alone', async () => {
    // With a command line of the user's own, who may start it in another network than the one where it ran.
    const { code, json } = await start(['web', '--count', '3', '--', ...guest.argv.slice(1)], {
      wrapper: FIVE_PORTS,
    }).ended;
    const { clones, failed } = json as ClonesReport;
    expect(code).toBe(3);
    expect(failed).toMatchObject([{ code: 'COLLISION' }]);
    expect(existsSync(path.join(dir, 'run/vms', failed[0]!.vmName))).toBe(false);
    expect(clones).toHaveLength(2);
    for (const clone of clones) expect(await examine(clone)).toEqual(WHOLE);
  });

  it('leaves the clones that run when it is interrupted, and nothing else', async () => {
    // None is complete, so that no more are begun than run side by side.
    const cli = start(['web', '--count', '8'], { env: { VMCKPT_PARK: 'background' } });
    await untilRunning('web.1', cli);
    cli.kill('SIGINT');
    const { code, json } = await cli.ended;
    const running = listVms();
    expect([code, running.length < 8]).toEqual([130, true]);
    expect(running.map(({ name }) => name)).toContain('web.1');
    for (const { name, qemuPid } of running) {
      expect(json).toMatchObject({ error: { message: expect.stringContaining(name) as string } });
      expect(qemuPid).not.toBeNull();
    }
  });

  it('refuses at once what no clone can be', async () => {
    const wrong = await start(['web', '--count', '3', '--', '-tpmdev', 'emulator,id=t']).ended;
    expect(wrong).toMatchObject({ code: 14, json: { error: { code: 'COMMAND_LINE_UNSUPPORTED' } } });
    for (const count of ['0', '1001', '1.5', 'x'])
      expect((await start(['web', '--count', count]).ended).code).toBe(2);
    expect((await start(['web', '--count', '2', '--resume']).ended).code).toBe(2);
    expect(listVms()).toEqual([]);
  });
});
