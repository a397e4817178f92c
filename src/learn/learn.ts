/**
 * The story of `learn`: run the checkpoint in an isolated network, exercise it as its clients do, end it, and repeat.
 * Each run teaches the next restores. isolation.ts makes the network.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '../checkpoint/files.js';
import { requireMachine } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { lacksUserfaultfd } from '../qemu/migration-control.js';
import { OnDemandRefusal } from '../qemu/on-demand.js';
import { restore } from '../restore/restore.js';
import { changedDisks } from '../restore/untouched-disks.js';
import type { RestoreReport } from '../restore/report.js';
import { stopVm } from '../vms/stop.js';
import { VmFolder } from '../vms/folder.js';
import { Store, type Generation } from '../store/store.js';
import { asRoot } from '../util/rights.js';
import { readWorkingSet } from '../working-set/file.js';
import { DEFAULT_WISHES } from '../working-set/plan.js';
import type { WorkingSet } from '../working-set/working-set.js';

/** How long a probe may take to end after it was told to. */
const PROBE_ENDS_MS = 2_000;

export interface LearnOptions {
  readonly storeDir: string;
  /** NAME or NAME@GENERATION. */
  readonly reference: string;
  readonly runs: number;
  /** A shell command that does what the VM's clients do. */
  readonly probe: string | undefined;
  /** How long a VM without a probe runs. */
  readonly seconds: number;
  readonly qemuBinary: string | undefined;
  readonly trustCommandLine: boolean;
  /** Called when the checkpoint was found and the first run begins. */
  readonly onBegin: () => void;
  readonly onRun: (run: LearnRun) => void;
  /** Reasons to doubt what is learned. */
  readonly onWarning: (text: string) => void;
  /** Messages of the restores. */
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

export interface LearnRun {
  /** Counts from 1. */
  readonly run: number;
  readonly mode: 'lazy' | 'exact' | 'prefetch';
  readonly demandFaults: number;
  readonly prefetchedPages: number;
  /** Null: unknown. */
  readonly precision: number | null;
  readonly recall: number | null;
}

export interface LearnReport {
  readonly name: string;
  readonly generation: number;
  readonly probe: string | null;
  readonly runs: readonly LearnRun[];
  /** Units that are predicted from now on. */
  readonly unitCount: number;
}

interface Lessons {
  readonly options: LearnOptions;
  readonly generation: Generation;
}

/**
 * Runs in the isolated process. On failure, what was learned before is kept and no VM is left.
 * @throws VmckptError as restore() does, PROBE_FAILED, and COMMAND_LINE_UNSUPPORTED, DISKS_WRITABLE for what cannot
 *   be isolated
 */
export async function learn(options: LearnOptions): Promise<LearnReport> {
  const store = await Store.open(options.storeDir, { trustForeign: options.trustCommandLine });
  const generation = await store.locate(options.reference);
  const { name, number, manifest } = generation;
  requireMachine(manifest);
  options.onBegin();
  const changes = changedDisks(generation);
  if (changes.length > 0)
    options.onWarning(`The guest may do other things than after a restore: ${changes.join('; ')}.`);
  const runs: LearnRun[] = [];
  for (let run = 1; run <= options.runs; run++) {
    const done = await runOnce(run, { options, generation });
    options.onRun(done);
    runs.push(done);
  }
  const unitCount = workingSetOf(generation).histogram.memberCount;
  return { name, generation: number, probe: options.probe ?? null, runs, unitCount };
}

/** The mode of the given run. */
function modeOf(run: number, runCount: number): LearnRun['mode'] {
  if (run === 1) return 'lazy';
  return run === 2 && runCount > 2 ? 'exact' : 'prefetch';
}

/**
 * The first run observes everything that is touched, and when. An exact run observes which pages are touched, more
 * slowly. The other runs measure how well the prediction works.
 */
async function runOnce(run: number, { options, generation }: Lessons): Promise<LearnRun> {
  const mode = modeOf(run, options.runs);
  const isPredicted = mode === 'prefetch';
  const ownFolder = new VmFolder(generation.name).ownFolder;
  let report: RestoreReport;
  let exercised = Promise.resolve();
  const over = new AbortController();
  const signal = AbortSignal.any([options.signal, over.signal]);
  try {
    report = await restore({
      ...options,
      reference: generation.reference,
      mode: isPredicted ? 'prefetch' : 'lazy',
      path: 'auto',
      prefetch: DEFAULT_WISHES,
      detach: false,
      run: true,
      qemuArgs: undefined,
      // What a trial writes is discarded, so it cannot harm a newer disk.
      disksAsSaved: true,
      onProgress: () => undefined,
      identity: 'trial',
      background: isPredicted ? 'at-once' : 'when-told',
      exactly: mode === 'exact',
      exercise: () => (exercised = exercise(run, { ...options, signal }, ownFolder)),
    });
  } catch (error) {
    throw withoutEager(error);
  } finally {
    over.abort();
    await exercised.catch(() => undefined); // why is known
    await stopVm(generation.name).catch(() => undefined); // it may never have been started
  }
  const { demandFaults, prefetchedPages } = report;
  const { precision = null, recall = null } = workingSetOf(generation).scores.at(-1) ?? {};
  return { run, mode, demandFaults, prefetchedPages, precision, recall };
}

/** Replaces advice to restore eagerly: nothing is learned from that. */
function withoutEager(error: unknown): unknown {
  if (!(error instanceof VmckptError)) return error;
  const why = 'Learning requires that memory comes on demand';
  const refusal = (hint: string) => new VmckptError(error.code, error.message, { hint, cause: error });
  if (error instanceof OnDemandRefusal) return refusal(`${why}.`);
  if (!lacksUserfaultfd(error)) return error;
  const remedy = `${asRoot('Run vmckpt', 'CAP_SYS_PTRACE')}, or set vm.unprivileged_userfaultfd=1 (sysctl)`;
  return refusal(`${why}. ${remedy}.`);
}

/** The probe finds the VM's sockets and logs in `ownFolder`. @throws VmckptError PROBE_FAILED */
async function exercise(
  run: number,
  { probe, seconds, signal }: LearnOptions,
  ownFolder: string,
): Promise<void> {
  if (probe === undefined)
    return sleep(seconds * 1000, undefined, { signal }).catch(() => signal.throwIfAborted());
  const child = spawn('sh', ['-c', probe], {
    // The probe's output counts as messages: stdout is for the report.
    stdio: ['ignore', process.stderr, process.stderr],
    env: { ...process.env, VMCKPT_LEARN_DIR: ownFolder },
    detached: true,
  });
  let insist: NodeJS.Timeout | undefined;
  const end = (): void => {
    signalGroup(child, 'SIGTERM');
    insist = setTimeout(() => signalGroup(child, 'SIGKILL'), PROBE_ENDS_MS);
  };
  signal.addEventListener('abort', end, { once: true });
  try {
    const [code, killer] = (await once(child, 'exit')) as [number | null, string | null];
    signal.throwIfAborted();
    if (code !== 0) throw probeFailed(run, code ?? killer!);
  } finally {
    signal.removeEventListener('abort', end);
    clearTimeout(insist);
  }
}

/** A failed probe has not done what clients do, so what the guest touched is not what they need. */
function probeFailed(run: number, end: number | string): VmckptError {
  return new VmckptError('PROBE_FAILED', `the probe ended with ${end} in run ${run}`, {
    hint:
      run === 1
        ? 'Nothing was learned. The probe has to end with 0; try it against the original VM first.'
        : 'What the runs before have taught is kept. The probe has to end with 0 each time.',
  });
}

function signalGroup({ pid }: ChildProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid!, signal);
  } catch (error) {
    if (errnoOf(error) !== 'ESRCH') throw error;
  }
}

function workingSetOf({ hints, manifest }: Generation): WorkingSet {
  return readWorkingSet(hints, manifest.sizes.ramBytes / PAGE_BYTES).workingSet;
}
