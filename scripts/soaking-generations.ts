/**
 * The story of a long chain: one guest is saved again and again, and only the newest generations are kept. What that
 * takes levels off: on the disk, in the runtime folder and in QEMU.
 */
import { lstatSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import type { Accelerator } from '../src/bench/guest.js';
import { MAX_PACKS } from '../src/checkpoint/format.js';
import { readManifest } from '../src/checkpoint/manifest.js';
import { Store } from '../src/store/store.js';
import { storeProblems } from '../test/support/faults.js';
import { killAndWait } from '../test/support/processes.js';
import {
  bareSubject,
  captureHere,
  qemuOf,
  requireWhole,
  restoreArgs,
  timed,
  type Subject,
} from './subjects.js';
import type { Workplace } from './workplace.js';

const NAME = 'generations';
const KEPT = 5;
const RAM_MB = 32;
/** How much the last fifth of the samples may exceed the second: the guest's writes are not the same each time. */
const MAX_GROWTH = 1.25;

interface GenerationsOptions {
  /** How many are saved. */
  readonly count: number;
  readonly qemu: string;
  readonly accel: Accelerator;
  readonly workplace: Workplace;
  readonly onSample?: (sample: Sample) => void;
}

/** What the chain takes after a save. */
export interface Sample {
  readonly generation: number;
  /** All files of the store, each once. */
  readonly storeBytes: number;
  readonly packCount: number;
  /** Of QEMU. */
  readonly descriptors: number;
  readonly runtimeFiles: number;
  readonly qemuBytes: number;
  /** Descriptors of the process that saves. */
  readonly ownDescriptors: number;
  readonly saveMs: number;
}

/** @throws Error that says what has grown, or what is not whole */
export async function soakGenerations(options: GenerationsOptions): Promise<readonly Sample[]> {
  const { count, qemu, accel, workplace, onSample = () => undefined } = options;
  const guest = await bareSubject({ dir: workplace.dir, qemu, accel, smp: 1, ramMb: RAM_MB });
  const samples: Sample[] = [];
  for (let number = 1; number <= count; number++) {
    const saveMs = await timed(() => captureHere(guest, workplace, { name: NAME, kept: KEPT }));
    const sample = takeSample(workplace, { number, saveMs });
    samples.push(sample);
    onSample(sample);
  }
  await requireWhole(guest, workplace);
  requireLevel(samples);
  const problems = await storeProblems(workplace.storeDir);
  if (problems.length > 0) throw new Error(`the store has problems: ${problems.join('; ')}`);
  await requireRestorable(guest, workplace);
  return samples;
}

function takeSample(
  workplace: Workplace,
  { number, saveMs }: { readonly number: number; readonly saveMs: number },
): Sample {
  const { runtimeDir, storeDir } = workplace;
  const pid = qemuOf(workplace);
  const manifest = readManifest(path.join(storeDir, NAME, `${number}`));
  return {
    generation: number,
    storeBytes: diskBytesOf(storeDir),
    packCount: manifest.formatVersion === 1 ? 0 : manifest.packs.length,
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    runtimeFiles: filesIn(runtimeDir).length,
    qemuBytes: residentBytesOf(pid),
    ownDescriptors: readdirSync('/proc/self/fd').length,
    saveMs,
  };
}

/** Of the second fifth and the last one. */
function requireLevel(samples: readonly Sample[]): void {
  const fifth = Math.floor(samples.length / 5);
  const [early, late] = [samples.slice(fifth, 2 * fifth), samples.slice(-fifth)];
  const most = (of: readonly Sample[], key: keyof Sample) => Math.max(...of.map((sample) => sample[key]));
  const grown = (['storeBytes', 'qemuBytes'] as const)
    .filter((key) => most(late, key) > most(early, key) * MAX_GROWTH)
    .map((key) => `${key} grew from ${most(early, key)} to ${most(late, key)}`);
  const changed = (['descriptors', 'runtimeFiles', 'ownDescriptors'] as const)
    .filter((key) => most(late, key) > most(early, key))
    .map((key) => `${key} grew from ${most(early, key)} to ${most(late, key)}`);
  const packs = most(samples, 'packCount');
  const wrong = [...grown, ...changed, ...(packs > MAX_PACKS ? [`${packs} packs`] : [])];
  if (wrong.length > 0) throw new Error(wrong.join('; '));
}

/** The oldest and the newest have a guest that is whole. */
async function requireRestorable(guest: Subject, workplace: Workplace): Promise<void> {
  const generations = await (await Store.open(workplace.storeDir)).generations(NAME);
  if (generations.length !== KEPT) throw new Error(`${generations.length} generations, ${KEPT} expected`);
  for (const generation of [generations[0], generations.at(-1)]) {
    await killAndWait(qemuOf(workplace));
    await workplace.vmckpt(restoreArgs(guest, `${NAME}@${generation}`));
    await requireWhole(guest, workplace);
  }
  await workplace.vmckpt(['stop', NAME]);
}

/** A pack that generations share counts once. */
function diskBytesOf(folder: string): number {
  const found = new Map(
    filesIn(folder)
      .map((file) => lstatSync(file))
      .map(({ ino, blocks }) => [ino, blocks]),
  );
  return [...found.values()].reduce((sum, blocks) => sum + blocks * 512, 0);
}

function filesIn(folder: string): string[] {
  const entries = readdirSync(folder, { withFileTypes: true, recursive: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.join(entry.parentPath, entry.name));
}

function residentBytesOf(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return Number(/^VmRSS:\s*(\d+) kB/m.exec(status)![1]) * 1024;
}
