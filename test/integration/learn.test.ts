/** `vmckpt learn` as a user runs it, while the original runs on. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { LearnReport, LearnRun } from '../../src/learn/learn.js';
import { guestFile } from '../support/cache.js';
import { saveGuest, useOwnFolders } from '../support/checkpointing.js';
import { startCli } from '../support/command.js';
import { startGuest, type Guest } from '../support/guest.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

/** Downloads from the guest as its clients do, and says which networks there are. */
const CLIENT = `
import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
const [port, file, interfaces] = process.argv.slice(2);
writeFileSync(interfaces, Object.keys(os.networkInterfaces()).join());
const served = Buffer.from(await (await fetch('http://127.0.0.1:' + port + '/blob.bin')).arrayBuffer());
process.exit(served.equals(readFileSync(file)) ? 0 : 4);
`;
/** Has the guest check all of its memory. */
const EXAMINER = `
import net from 'node:net';
const socket = net.connect(process.env.VMCKPT_LEARN_DIR + '/console.sock').setEncoding('latin1');
socket.write('verify\\n');
let said = '';
for await (const text of socket) {
  const verdict = /VERIFY (ok|bad)/.exec((said += text));
  if (verdict) process.exit(verdict[1] === 'ok' ? 0 : 5);
}
`;

describeOnEachQemu('learning on purpose', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const at = (name: string) => path.join(dir, name);
  let guest: Guest;

  beforeAll(async () => {
    writeFileSync(at('client.mjs'), CLIENT);
    writeFileSync(at('examiner.mjs'), EXAMINER);
    guest = await startGuest({ dir, qemu });
    await guest.waitReady();
    await saveGuest(guest, { storeDir, name: 'web' });
  });
  afterAll(async () => guest.stop());

  const learn = (...args: string[]) => {
    const verb = ['--json', '--store', storeDir, 'learn', '--trust-command-line', '--qemu', guest.argv[0]!];
    return startCli([...verb, 'web', ...args], { env: { TMPDIR: dir } });
  };
  const leftovers = () => readdirSync(dir).filter((name) => name.startsWith('vmckpt-learn-'));

  it('runs copies beside the VM, reached by its ports, in a network of their own', async () => {
    const { http } = guest.ports;
    const probe = `${process.execPath} ${at('client.mjs')} ${http} ${guestFile('blob.bin')} ${at('interfaces')}`;
    const { code, json, stderr } = await learn('--probe', probe).ended;
    expect({ code, stderr }).toEqual({
      code: 0,
      stderr: expect.stringMatching(/^(\{"message":"Run \d: .*"\}\n){3}$/) as string,
    });
    const { runs, ...report } = json as LearnReport;
    expect(report).toMatchObject({ name: 'web', generation: 1, probe });
    expect(report.unitCount).toBeGreaterThan(100);
    expect(runs.map(({ mode }) => mode)).toEqual(['lazy', 'exact', 'prefetch']);
    const [lazy, exact, learned] = runs as [LearnRun, LearnRun, LearnRun];
    expect(exact.demandFaults).toBeGreaterThan(lazy.demandFaults);
    expect(learned.demandFaults).toBeLessThan(lazy.demandFaults / 2);
    expect(learned.prefetchedPages).toBeGreaterThan(100);
    expect(['', 'lo']).toContain(readFileSync(at('interfaces'), 'utf8'));
    const { n } = await guest.console.nextHeartbeat();
    expect((await guest.console.nextHeartbeat()).n).toBeGreaterThan(n);
    expect(leftovers()).toEqual([]);
  });

  if (qemu === '10') return;

  it('finds its copies whole', async () => {
    const probe = `${process.execPath} ${at('examiner.mjs')}`;
    const { code, json } = await learn('--probe', probe, '--runs', '2').ended;
    expect([code, json]).toMatchObject([0, { runs: [{ run: 1 }, { run: 2 }] }]);
  });

  it('learns nothing from a probe that fails, and watches an idle guest without one', async () => {
    const generation = path.join(storeDir, 'web/1');
    const taught = () =>
      readdirSync(generation).map((name) => [name, statSync(path.join(generation, name)).mtimeMs]);
    const before = taught();
    expect(await learn('--probe', 'exit 7').ended).toMatchObject({
      code: 1,
      json: {
        error: { code: 'PROBE_FAILED', message: expect.stringContaining('ended with 7 in run 1') as string },
      },
    });
    expect(taught()).toEqual(before);
    expect(leftovers()).toEqual([]);
    const idle = await learn('--seconds', '0.2', '--runs', '1').ended;
    expect(idle).toMatchObject({ code: 0, json: { probe: null, runs: [{ run: 1 }] } });
    expect(idle.stderr).toContain('No --probe');
  });

  it('ends its VM on an interrupt, and the probe with it', async () => {
    const started = at('started');
    const running = learn('--probe', `touch ${started}; sleep 60`);
    await until('the probe', () => existsSync(started));
    running.kill('SIGINT');
    expect(await running.ended).toMatchObject({ code: 130, json: { error: { code: 'INTERRUPTED' } } });
    expect(leftovers()).toEqual([]);
  });
});
