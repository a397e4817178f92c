import { expect, it, onTestFinished } from 'vitest';
import { soak, type SoakRun } from '../../scripts/soaking.js';
import { openWorkplace } from '../../scripts/workplace.js';
import { chooseSeed } from '../support/faults.js';
import { killProcessesOf } from '../support/processes.js';
import { describeOnEachQemu } from '../support/vitest.js';

/** On each of two QEMUs; hundreds by hand: scripts/soak.sh. */
const RUNS = 10;

describeOnEachQemu('a guest whose saves and restores are killed at random moments', (qemu) => {
  it('comes back whole each time', { timeout: 300_000 }, async () => {
    const workplace = openWorkplace();
    onTestFinished(() => killProcessesOf(workplace.runtimeDir));
    const seed = chooseSeed();
    console.info(`VMCKPT_SEED=${seed}`);
    const runs: SoakRun[] = [];
    await soak({ runs: RUNS, seed, qemu, workplace, onRun: (run) => runs.push(run) });
    expect(runs.length).toBe(RUNS);
  });
});
