/** Compares restores of the last save of a chain with those of a first save of the same guest. */
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../../errors.js';
import { restore } from '../../restore/restore.js';
import { roundMs } from '../../timeline/clock.js';
import { measure } from '../run.js';
import { vmckpt } from '../scenarios.js';
import { seededRandom, shuffled } from '../random.js';
import type { SaveRun } from './save-report.js';
import { saveChain } from './savers.js';
import { runOf, type SaveWorkshop } from './workshop.js';

/** How long clients are watched after a restore. */
const OBSERVE_MS = 3_000;
const SAVED = [
  { scenario: 'restore-full', reference: 'full' },
  { scenario: 'restore-chain', reference: 'chain' },
] as const;

/** Ends the guest. */
export async function measureRestores(
  workshop: SaveWorkshop,
  { rounds }: { readonly rounds: number },
): Promise<SaveRun[]> {
  const { guest, version, storeDir, verb, values, signal, runtimeDir, onMessage } = workshop;
  onMessage('saving a chain of generations, to restore its last one');
  await saveChain('chain', workshop);
  await verb.save('full');
  await guest.stop();
  const random = seededRandom(workshop.seed);
  const runs: SaveRun[] = [];
  for (let round = 1; round <= rounds; round++)
    for (const { scenario, reference } of shuffled(SAVED, random)) {
      onMessage(`round ${round} of ${rounds}: ${scenario}`);
      const how = { mode: 'lazy', path: 'auto' } as const;
      const files = filesOf(path.join(storeDir, reference));
      const seen = await measure(
        {
          scenario: vmckpt(scenario, scenario, 'checkpoint', { ...how, reference }),
          cache: 'cold',
          round,
          seed: workshop.seed + round,
        },
        { guest, version, storeDir, restore, files, signal },
        { runtimeDir, values, observeMs: OBSERVE_MS },
      );
      if (!seen.later.memoryIntact)
        throw new VmckptError('FAILED', `a guest came back damaged: ${scenario}, round ${round}`);
      const firstAnswerMs = seen.answers.ping.answeredMs[0];
      const figures = {
        resumeMs: seen.resumeMs,
        ...(firstAnswerMs !== undefined && { firstAnswerMs: roundMs(firstAnswerMs) }),
        ...(seen.completeMs !== null && { completeMs: seen.completeMs }),
      };
      runs.push(runOf(scenario, workshop, { load: 'rest', round }, { figures }));
    }
  return runs;
}

/** The packs of the newest generation. */
function filesOf(nameDir: string): string[] {
  const newest = Math.max(...readdirSync(nameDir).map(Number).filter(Number.isInteger));
  const dir = path.join(nameDir, String(newest));
  return readdirSync(dir).map((file) => path.join(dir, file));
}
