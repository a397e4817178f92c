/**
 * The story of `vmckpt bench save`: for every size boot a guest, give it something to do, and save it again and again in
 * every way, in shuffled order; take captures beside its clients; restore what was saved last. What is started ends with
 * the measurement, also when that is interrupted.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { VmckptError } from '../../errors.js';
import { parse } from '../../util/schema.js';
import { describeHost, diskRates } from '../environment.js';
import type { Accelerator, GuestFiles } from '../guest.js';
import { makeFolder, prepareGuest, valuesFor, type PreparedGuest } from '../prepared-guest.js';
import { seededRandom, shuffled, type Random } from '../random.js';
import { openWorkplace, type Workplace } from '../workplace.js';
import { measureSeries, SERIES } from './captures.js';
import { summarizeSaves } from './figures.js';
import { renderSaveReport } from './page.js';
import { computeSaveRatios } from './ratios.js';
import { measureRestores } from './restores.js';
import { saveReportSchema, type SaveAbsence, type SaveBenchReport, type SaveRun } from './save-report.js';
import { measureSaver, SAVERS, type Saver } from './savers.js';
import { LOADS, type LoadName } from './scenarios.js';
import { SaveVerb } from './verb.js';
import type { RoundPlace, SaveWorkshop } from './workshop.js';

/** What the guest rewrites, over and over; no more than half of what it fills. */
const REWRITTEN_MB = 256;
/** Captures are taken beside clients of a guest with this load. */
const SERIES_LOAD: LoadName = 'steady';
const RESTORED_LOAD: LoadName = 'rest';
const VERIFY_TIMEOUT_MS = 600_000;

export interface BenchSaveOptions {
  /** The folder for report.json and report.html, and for checkpoints in the meantime. */
  readonly outDir: string;
  readonly sizesMib: readonly number[];
  readonly rounds: number;
  readonly loads: readonly LoadName[];
  /** Names of savers; all by default. */
  readonly savers?: readonly string[] | undefined;
  /** How many saves a chain has. */
  readonly saves: number;
  readonly captureS: number;
  readonly seed: number;
  readonly accel: Accelerator;
  readonly qemuBinary: string;
  readonly guestFiles: GuestFiles;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

interface Measured {
  readonly runs: readonly SaveRun[];
  readonly absences: readonly SaveAbsence[];
  readonly qemu: string;
}

/** @throws VmckptError USAGE, FAILED, also for a guest that has lost memory, INTERRUPTED and what save and restore throw */
export async function benchSave(options: BenchSaveOptions): Promise<SaveBenchReport> {
  const { outDir, sizesMib, rounds, seed, saves, captureS, loads, accel } = options;
  const savers = saversNamed(options.savers);
  const host = describeHost();
  const dataDir = path.join(outDir, `measuring-${process.pid}`);
  makeFolder(dataDir);
  const workplace = openWorkplace(dataDir);
  const measured: Measured[] = [];
  let rates;
  try {
    rates = await diskRates(dataDir);
    for (const ramMib of sizesMib)
      for (const group of bySpeed(loads))
        measured.push(await measureGuest({ options, savers, workplace, dataDir, ramMib, loads: group }));
  } finally {
    workplace.close();
  }
  const runs = measured.flatMap((each) => each.runs);
  const absences = measured.flatMap((each) => each.absences);
  const summaries = summarizeSaves(runs);
  const report = parse(saveReportSchema, {
    kind: 'vmckpt bench save',
    version: 1,
    options: { ramMib: [...sizesMib], rounds, seed, loads: [...loads], saves, captureS },
    environment: {
      ...host,
      ...rates,
      qemu: measured[0]!.qemu,
      accelerator: accel,
      loadAtEnd: os.loadavg()[0]!,
    },
    ...computeSaveRatios({ runs, summaries, absences, sizesMib }),
    summaries,
    absences: [...absences],
    runs: [...runs],
  } satisfies SaveBenchReport);
  writeFileSync(path.join(outDir, 'report.json'), `${JSON.stringify(report)}\n`);
  writeFileSync(path.join(outDir, 'report.html'), renderSaveReport(report));
  return report;
}

interface GuestWork {
  readonly options: BenchSaveOptions;
  readonly savers: readonly Saver[];
  readonly workplace: Workplace;
  readonly dataDir: string;
  readonly ramMib: number;
  /** The measurements with one speed of writing. One guest serves them all. */
  readonly loads: readonly LoadName[];
}

async function measureGuest(work: GuestWork): Promise<Measured> {
  const { options, loads } = work;
  const { rounds, signal, seed } = options;
  const prepared = await boot(work);
  try {
    const workshop = await openWorkshop(work, prepared);
    const runs: SaveRun[] = [];
    const absences = new Map<string, SaveAbsence>();
    const random = seededRandom(seed);
    for (let round = 1; round <= rounds; round++)
      for (const load of shuffled(loads, random)) {
        await takeLoad(workshop, load);
        runs.push(...(await measureRound(work, workshop, { place: { load, round }, random, absences })));
        signal.throwIfAborted();
      }
    await requireWhole(workshop);
    if (loads.includes(RESTORED_LOAD)) {
      await takeLoad(workshop, RESTORED_LOAD);
      runs.push(...(await measureRestores(workshop, { rounds })));
    }
    return { runs, absences: [...absences.values()], qemu: prepared.version.text };
  } finally {
    await prepared.guest.stop();
    rmSync(storeOf(work), { recursive: true, force: true });
  }
}

interface Round {
  readonly place: RoundPlace;
  readonly random: Random;
  /** Failures by scenario and load. What has failed is not tried again. */
  readonly absences: Map<string, SaveAbsence>;
}

async function measureRound(
  { savers, ramMib, options }: GuestWork,
  workshop: SaveWorkshop,
  { place, random, absences }: Round,
): Promise<SaveRun[]> {
  const { load, round } = place;
  const runs: SaveRun[] = [];
  const say = (what: string) =>
    workshop.onMessage(`${ramMib} MiB ${LOADS[load].title}, round ${round} of ${options.rounds}: ${what}`);
  for (const saver of shuffled(savers, random)) {
    const problem = saver.problem?.(workshop);
    if (problem === undefined) {
      say(saver.name);
      runs.push(...(await measureSaver(saver, workshop, place)));
    } else
      for (const scenario of saver.scenarios)
        absences.set(`${scenario} ${load}`, { scenario, load, ramMib, reason: problem });
  }
  if (load !== SERIES_LOAD) return runs;
  for (const series of shuffled(SERIES, random)) {
    say(series.scenario);
    runs.push(await measureSeries(series, workshop, place));
  }
  return runs;
}

async function boot({ options, workplace, ramMib, loads }: GuestWork): Promise<PreparedGuest> {
  const { qemuBinary: binary, guestFiles: files, accel, signal, onMessage } = options;
  onMessage(`${ramMib} MiB: booting a guest`);
  const dir = path.join(workplace.dir, `${ramMib}-${loads[0]}`);
  mkdirSync(dir);
  const { writeMbps } = LOADS[loads[0]!];
  const dirtyMb = Math.min(REWRITTEN_MB, Math.floor(ramMib / 8));
  return prepareGuest({ dir, binary, files, accel, ramMib, signal, dirtyMb, writeMbps, checkMbps: 0 });
}

async function openWorkshop(work: GuestWork, { guest, version }: PreparedGuest): Promise<SaveWorkshop> {
  const { options, workplace, dataDir, ramMib } = work;
  const { saves, captureS, seed, onMessage, signal } = options;
  const { runtimeDir } = workplace;
  const storeDir = storeOf(work);
  const verb = await SaveVerb.open({ vm: `qmp:${guest.qmpSocket}`, storeDir, runtimeDir, signal });
  const captureMs = captureS * 1000;
  const values = valuesFor(ramMib);
  return {
    guest,
    version,
    verb,
    dataDir,
    storeDir,
    runtimeDir,
    values,
    saves,
    captureMs,
    seed,
    onMessage,
    signal,
  };
}

function storeOf({ dataDir, ramMib }: GuestWork): string {
  return path.join(dataDir, `store-${ramMib}`);
}

function takeLoad({ guest }: SaveWorkshop, load: LoadName): Promise<void> {
  return LOADS[load].isIdle ? guest.console.idle() : guest.console.run();
}

/** Requires that the guest still has all of its memory. */
async function requireWhole({ guest }: SaveWorkshop): Promise<void> {
  const { ok, bad } = await guest.console.verify(VERIFY_TIMEOUT_MS);
  if (!ok) throw new VmckptError('FAILED', `the guest found ${bad} pages damaged after it was saved`);
}

/** Groups the loads by speed: one guest can be told to produce those of a group. */
function bySpeed(loads: readonly LoadName[]): LoadName[][] {
  const speeds = [...new Set(loads.map((load) => LOADS[load].writeMbps))];
  return speeds.map((speed) => loads.filter((load) => LOADS[load].writeMbps === speed));
}

/** @throws VmckptError USAGE */
function saversNamed(names: readonly string[] | undefined): readonly Saver[] {
  const known = SAVERS.map(({ name }) => name);
  const unknown = names?.find((name) => !known.includes(name));
  if (unknown !== undefined)
    throw new VmckptError('USAGE', `there is no scenario "${unknown}"`, {
      hint: `There are: ${known.join(', ')}.`,
    });
  return SAVERS.filter(({ name }) => names === undefined || names.includes(name));
}
