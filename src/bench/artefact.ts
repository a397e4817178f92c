/** What is saved of the guest before anything is measured, each in the form that some scenario loads. */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { QmpClient, type QemuVersion } from '../qemu/qmp.js';
import type { Layout } from '../save/save.js';
import { Store } from '../store/store.js';
import type { Build } from './build.js';
import type { Guest } from './guest.js';
import { writeMemoryFile } from './memory-file.js';
import { mappedRamProblem, stockMappedRam, stockSave } from './stock.js';

export type ArtefactName =
  | 'stream'
  | 'mappedRam'
  | 'memoryFile'
  | 'checkpoint'
  | 'checkpointRaw'
  | 'checkpointMapped'
  | 'checkpointLearned';

export interface Workshop {
  /** Running, its verifier idle. */
  readonly guest: Guest;
  /** By which checkpoints are saved. */
  readonly build: Build;
  readonly storeDir: string;
  /** A folder for this artefact alone. */
  readonly dir: string;
  readonly signal: AbortSignal;
}

export interface Artefact {
  /** Why this QEMU cannot make it. */
  readonly problem?: (version: QemuVersion) => string | undefined;
  /** Returns the files that a restore from it reads. The guest may be left paused. */
  readonly make: (workshop: Workshop) => Promise<readonly string[]>;
}

export const ARTEFACTS: Readonly<Record<ArtefactName, Artefact>> = {
  stream: {
    make: async ({ guest, dir }) => {
      const file = path.join(dir, 'stream');
      await stockSave(guest, 'stopped', file);
      return [file];
    },
  },
  mappedRam: {
    problem: mappedRamProblem,
    make: async ({ guest, dir }) => {
      const file = path.join(dir, 'mapped-ram');
      await stockMappedRam(guest, file);
      return [file];
    },
  },
  memoryFile: {
    make: async (workshop) => {
      const storeDir = path.join(workshop.dir, 'store');
      const [file] = await checkpoint({ ...workshop, storeDir }, 'none');
      const files = await writeMemoryFile(path.dirname(file!), workshop);
      rmSync(storeDir, { recursive: true });
      return files;
    },
  },
  checkpoint: { make: (workshop) => checkpoint(workshop, 1) },
  checkpointRaw: { make: (workshop) => checkpoint(workshop, 'none') },
  checkpointMapped: { make: (workshop) => checkpoint(workshop, 1, 'raw') },
  /** Of its own: every restore of it teaches the next. */
  checkpointLearned: { make: (workshop) => checkpoint(workshop, 1) },
};

/** Lets a guest run again that a save has left paused: QEMU 7.2 refuses a second migration otherwise. */
export async function letRun({ qmpSocket }: Guest): Promise<void> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  await qmp.execute('cont');
  await qmp.close();
}

/** The generation is the only one of the folder's name, so the folder's name refers to it. */
async function checkpoint(
  { guest, build, storeDir, dir, signal }: Workshop,
  level: number | 'none',
  layout: Layout = 'extents',
): Promise<readonly string[]> {
  const name = path.basename(dir);
  await build.save({ qmpSocket: guest.qmpSocket, storeDir, name, level, layout, signal });
  const generation = await (await Store.open(storeDir)).locate(name);
  return readdirSync(generation.dir).map((file) => path.join(generation.dir, file));
}

/** Makes those of `names` that this QEMU can; before each of them the guest runs. */
export async function makeArtefacts(
  names: readonly ArtefactName[],
  workshop: Workshop & { readonly version: QemuVersion; readonly onMessage: (text: string) => void },
): Promise<ReadonlyMap<ArtefactName, readonly string[]>> {
  const made = new Map<ArtefactName, readonly string[]>();
  for (const name of names) {
    const artefact = ARTEFACTS[name];
    if (artefact.problem?.(workshop.version) !== undefined) continue;
    workshop.signal.throwIfAborted();
    workshop.onMessage(`saving the guest: ${name}`);
    await letRun(workshop.guest);
    const dir = path.join(workshop.dir, name);
    mkdirSync(dir, { recursive: true });
    made.set(name, await artefact.make({ ...workshop, dir }));
  }
  return made;
}
