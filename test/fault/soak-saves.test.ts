import { expect, it, onTestFinished } from 'vitest';
import { soakGenerations } from '../../scripts/soaking-generations.js';
import { soakSaves } from '../../scripts/soaking-saves.js';
import type { SoakRun } from '../../scripts/soaking.js';
import { openWorkplace, type Workplace } from '../../scripts/workplace.js';
import { kvmProblem } from '../support/bare.js';
import { chooseSeed } from '../support/faults.js';
import { killProcessesOf } from '../support/processes.js';
import { describeOnEachQemu } from '../support/vitest.js';

/** On each of two QEMUs; hundreds by hand: scripts/soak.sh. */
const KILLS = 10;
const GENERATIONS = 40;
const accel = kvmProblem() === undefined ? 'kvm' : 'tcg';

function workplace(): Workplace {
  const place = openWorkplace();
  onTestFinished(() => killProcessesOf(place.runtimeDir));
  return place;
}

describeOnEachQemu('a guest that is saved again and again', (qemu) => {
  it(
    'is whole, as all its generations are, whatever is killed at each step',
    { timeout: 300_000 },
    async () => {
      const seed = chooseSeed();
      console.info(`VMCKPT_SEED=${seed}`);
      const runs: SoakRun[] = [];
      await soakSaves({
        runs: KILLS,
        seed,
        qemu,
        accel,
        workplace: workplace(),
        onRun: (run) => runs.push(run),
      });
      expect(runs.length).toBe(KILLS);
    },
  );

  it(
    'takes no more for many generations than for a few, as older ones are removed',
    { timeout: 300_000 },
    async () => {
      const samples = await soakGenerations({ count: GENERATIONS, qemu, accel, workplace: workplace() });
      expect(samples.length).toBe(GENERATIONS);
    },
  );
});
