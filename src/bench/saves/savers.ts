/** The ways of saving a running guest, each measured from the first command until all is fsynced. */
import { rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { letRun } from '../artefact.js';
import { mappedRamProblem, stockMappedRam, stockSave, type StockSave } from '../stock.js';
import { settleHost } from '../workplace.js';
import type { SaveFigures } from './figures.js';
import type { SaveRun } from './save-report.js';
import type { SaveScenario } from './scenarios.js';
import { runOf, type RoundPlace, type SaveWorkshop } from './workshop.js';

/** The time between two saves of a chain. */
const BETWEEN_MS = 1_000;
const BLOCK_BYTES = 512;

type Saves = readonly (readonly [SaveScenario, SaveFigures])[];

export interface Saver {
  readonly name: string;
  /** The scenarios for which it gives figures. */
  readonly scenarios: readonly SaveScenario[];
  /** Why it cannot be measured. */
  readonly problem?: (workshop: SaveWorkshop) => string | undefined;
  readonly save: (workshop: SaveWorkshop) => Promise<Saves>;
}

export const SAVERS: readonly Saver[] = [
  stock('qemu-background-snapshot', ({ guest }, file) => stockSave(guest, 'background-snapshot', file)),
  stock('qemu-stopped', async ({ guest }, file) => {
    const saved = await stockSave(guest, 'stopped', file);
    await letRun(guest);
    return saved;
  }),
  {
    ...stock('qemu-mapped-ram', async ({ guest }, file) => {
      const saved = await stockMappedRam(guest, file);
      await letRun(guest);
      return saved;
    }),
    problem: ({ version }) => mappedRamProblem(version),
  },
  {
    name: 'vmckpt-stream',
    scenarios: ['vmckpt-stream'],
    save: async ({ verb }) => {
      const figures = await verb.save('stream', ['--live', 'background-snapshot']);
      await verb.forget('stream');
      return [['vmckpt-stream', figures]];
    },
  },
  {
    name: 'vmckpt',
    scenarios: ['vmckpt-first', 'vmckpt-next'],
    save: async ({ verb }) => {
      const first = await verb.save('plain');
      await sleep(BETWEEN_MS);
      const next = await verb.save('plain');
      await verb.forget('plain');
      return [
        ['vmckpt-first', first],
        ['vmckpt-next', next],
      ];
    },
  },
  {
    name: 'vmckpt-tracked',
    scenarios: ['vmckpt-tracked', 'vmckpt-tracked-last'],
    problem: ({ verb }) => (verb.tracks ? undefined : 'this vmckpt does not track what a VM writes'),
    save: async (workshop) => {
      const saved = await saveChain('tracked', workshop);
      await workshop.verb.forget('tracked');
      return [
        ['vmckpt-tracked', saved[1]!],
        ['vmckpt-tracked-last', saved.at(-1)!],
      ];
    },
  },
];

/** Runs one saver once. */
export async function measureSaver(
  saver: Saver,
  workshop: SaveWorkshop,
  place: RoundPlace,
): Promise<SaveRun[]> {
  await settleHost(0);
  const saves = await saver.save(workshop);
  return saves.map(([scenario, figures]) => runOf(scenario, workshop, place, { figures }));
}

/** Saves again and again under one name; tracked where vmckpt can do that, and then no longer at the end. */
export async function saveChain(
  name: string,
  { verb, saves, signal }: Pick<SaveWorkshop, 'verb' | 'saves' | 'signal'>,
): Promise<SaveFigures[]> {
  const saved: SaveFigures[] = [];
  try {
    for (let at = 0; at < saves; at++) {
      if (at > 0) await sleep(BETWEEN_MS, undefined, { signal });
      saved.push(await verb.save(name, verb.trackArgs));
    }
  } finally {
    await verb.endTracking(name);
  }
  return saved;
}

function stock(
  name: SaveScenario,
  save: (workshop: SaveWorkshop, file: string) => Promise<StockSave>,
): Saver {
  return {
    name,
    scenarios: [name],
    save: async (workshop) => {
      const file = path.join(workshop.dataDir, name);
      const saved = await save(workshop, file);
      const storedBytes = statSync(file).blocks * BLOCK_BYTES;
      rmSync(file);
      return [[name, { ...saved, storedBytes }]];
    },
  };
}
