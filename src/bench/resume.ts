/**
 * The story of `vmckpt bench resume`: for every size boot one guest, prepare data for its clients, save it in every
 * form that a scenario loads, and end it. Then restore it repeatedly, in shuffled order, each time into a new QEMU.
 * Everything that was started ends with the measurement, even if that is interrupted.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { VmckptError } from '../errors.js';
import type { QemuVersion } from '../qemu/qmp.js';
import { restore } from '../restore/restore.js';
import { parse } from '../util/schema.js';
import { ARTEFACTS, makeArtefacts, type ArtefactName } from './artefact.js';
import { CLIENT_NAMES, type ClientName } from './clients/load.js';
import { byOtherBuild, compareBuilds } from './comparison.js';
import { describeHost, diskReadRate } from './environment.js';
import { measureFaultPath } from './fault-path.js';
import { summarize } from './figures.js';
import type { Accelerator, GuestFiles } from './guest.js';
import { perceive, throughput } from './measure.js';
import type { CacheState } from './page-cache.js';
import { makeFolder, prepareGuest, valuesFor } from './prepared-guest.js';
import { seededRandom, shuffled } from './random.js';
import { computeRatios } from './ratios.js';
import { renderReport } from './report/page.js';
import {
  resumeReportSchema,
  type Absence,
  type FaultPathSample,
  type ResumeReport,
  type Run,
  type Sampled,
} from './resume-report.js';
import { measure, type Measurement, type Room } from './run.js';
import type { SavedGuest, Scenario } from './scenario.js';
import { REFERENCE, SCENARIOS } from './scenarios.js';
import { heldAgainst, touchedPages, type Touched } from './touched.js';
import { openWorkplace, type Workplace } from './workplace.js';

const CACHE_STATES: readonly CacheState[] = ['warm', 'cold'];

export interface BenchResumeOptions {
  /** The folder for report.json and report.html, and for checkpoints in the meantime. */
  readonly outDir: string;
  readonly sizesMib: readonly number[];
  readonly rounds: number;
  readonly scenarios: readonly string[];
  /** Another checkout, built: its restores are measured in turns with this one's. */
  readonly against?: string | undefined;
  readonly seed: number;
  readonly accel: Accelerator;
  readonly qemuBinary: string;
  readonly guestFiles: GuestFiles;
  /** How long a guest is watched once it runs. */
  readonly observeMs: number;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

type Reference = ResumeReport['references'][number];

interface SizeResult {
  readonly reference: Reference;
  readonly runs: readonly Run[];
  readonly absences: readonly Absence[];
  readonly faultPath: readonly FaultPathSample[];
  readonly version: QemuVersion;
  readonly diskReadBytesPerS: number;
}

/** @throws VmckptError USAGE for a scenario that there is not, FAILED, INTERRUPTED and what save and restore throw */
export async function benchResume(options: BenchResumeOptions): Promise<ResumeReport> {
  const { outDir, sizesMib, rounds, seed, accel, observeMs } = options;
  const chosen = options.scenarios.map(requireScenario);
  const scenarios = [...chosen, ...(await otherBuild(chosen, options.against))];
  const host = describeHost();
  const dataDir = path.join(outDir, `measuring-${process.pid}`);
  makeFolder(dataDir);
  const workplace = openWorkplace(dataDir);
  const results: SizeResult[] = [];
  try {
    for (const ramMib of sizesMib) {
      const sizeDir = path.join(dataDir, `${ramMib}`);
      results.push(await measureSize({ options, scenarios, workplace, dataDir: sizeDir, ramMib }));
      rmSync(sizeDir, { recursive: true });
    }
  } finally {
    workplace.close();
  }
  const runs = results.flatMap((result) => result.runs);
  const absences = results.flatMap((result) => result.absences);
  const faultPath = results.flatMap((result) => result.faultPath);
  const summaries = summarize(runs);
  const { diskReadBytesPerS } = results[0]!;
  const report = parse(resumeReportSchema, {
    kind: 'vmckpt bench resume',
    version: 1,
    options: { ramMib: [...sizesMib], rounds, seed, scenarios: scenarios.map(({ name }) => name), observeMs },
    environment: {
      ...host,
      qemu: results[0]!.version.text,
      accelerator: accel,
      diskReadBytesPerS,
      loadAtEnd: os.loadavg()[0]!,
    },
    references: results.map(({ reference }) => reference),
    ...computeRatios({ runs, summaries, absences, sizesMib, faultPath, diskReadBytesPerS }),
    summaries,
    ...(options.against !== undefined && { comparisons: compareBuilds(runs) }),
    absences,
    runs,
    faultPath,
  } satisfies ResumeReport);
  writeFileSync(path.join(outDir, 'report.json'), `${JSON.stringify(report)}\n`);
  writeFileSync(path.join(outDir, 'report.html'), renderReport(report));
  return report;
}

interface SizeWork {
  readonly options: BenchResumeOptions;
  readonly scenarios: readonly Scenario[];
  readonly workplace: Workplace;
  /** For what is saved of the guest of this size. */
  readonly dataDir: string;
  readonly ramMib: number;
}

interface Saved extends Omit<SavedGuest, 'files'> {
  readonly files: ReadonlyMap<ArtefactName, readonly string[]>;
}

async function measureSize(work: SizeWork): Promise<SizeResult> {
  const { options, scenarios, workplace, ramMib } = work;
  const { onMessage, seed, observeMs, rounds } = options;
  const values = valuesFor(ramMib);
  const saved = await prepare(work);
  const room: Room = { runtimeDir: workplace.runtimeDir, values, observeMs };
  onMessage(`${ramMib} MiB: what its clients reach at best`);
  const settled = await measureOne({ scenario: REFERENCE, cache: 'warm', round: 0, seed }, saved, room);
  const reference = referenceOf(settled, observeMs);
  const runs = [held(settled, reference)];
  const absences = [...unavailable(scenarios, saved, ramMib)];
  const random = seededRandom(seed);
  const possible = scenarios.filter(({ artefact }) => saved.files.has(artefact));
  const touched = new Map<Scenario, Touched>();
  for (const scenario of possible.filter(({ training }) => training !== undefined)) {
    for (const [at, restore] of scenario.training!.entries()) {
      onMessage(`${ramMib} MiB: ${scenario.name} learns, ${at + 1} of ${scenario.training!.length}`);
      const lesson = {
        scenario: { ...scenario, restore },
        cache: 'warm',
        round: 0,
        seed: seed - 1 - at,
      } as const;
      await measureOne(lesson, saved, room);
    }
    onMessage(`${ramMib} MiB: what the guest of ${scenario.name} touches`);
    const generationDir = path.dirname(saved.files.get(scenario.artefact)![0]!);
    const reference = scenario.artefact;
    const found = await touchedPages({ ...saved, files: [] }, { reference, generationDir, seed }, room);
    if (found !== undefined) touched.set(scenario, found);
  }
  for (let round = 1; round <= rounds; round++) {
    const all = possible.flatMap((scenario) => CACHE_STATES.map((cache) => ({ scenario, cache })));
    for (const [at, { scenario, cache }] of shuffled(all, random).entries()) {
      if (absences.some((each) => each.scenario === scenario.name && each.cache === cache)) continue;
      onMessage(
        `${ramMib} MiB, round ${round} of ${rounds}, ${at + 1} of ${all.length}: ${scenario.name}, ${cache}`,
      );
      try {
        const sampled = await measureOne({ scenario, cache, round, seed: seed + round }, saved, room);
        runs.push(held(await withPrediction(sampled, touched.get(scenario)), reference));
      } catch (error) {
        options.signal.throwIfAborted();
        const reason = `failed: ${(error as Error).message}`;
        onMessage(`${scenario.name}, ${cache} ${reason}`);
        absences.push({ scenario: scenario.name, ramMib, cache, reason });
      }
    }
  }
  const { version, files, guest } = saved;
  const diskReadBytesPerS = await diskReadRate(largestOf(saved));
  onMessage(`${ramMib} MiB: the fault path by itself`);
  const faultPath = await measureFaultPath({ files, ramBytes: guest.ramBytes, rounds, seed });
  return { reference, runs, absences, faultPath, version, diskReadBytesPerS };
}

/** Boots the guest, fills it, saves it in every form that is needed, ends it. */
async function prepare({ options, scenarios, workplace, dataDir, ramMib }: SizeWork): Promise<Saved> {
  const { qemuBinary: binary, guestFiles, accel, signal, onMessage } = options;
  onMessage(`${ramMib} MiB: booting a guest`);
  const dir = path.join(workplace.dir, `${ramMib}`);
  mkdirSync(dir);
  const { guest, version } = await prepareGuest({ dir, binary, files: guestFiles, accel, ramMib, signal });
  try {
    const storeDir = path.join(dataDir, 'store');
    const names = [...new Set([REFERENCE, ...scenarios].map(({ artefact }) => artefact))];
    const workshop = { guest, storeDir, dir: dataDir, signal, version, onMessage };
    return { guest, version, storeDir, restore, signal, files: await makeArtefacts(names, workshop) };
  } finally {
    await guest.stop();
  }
}

function measureOne(measurement: Measurement, saved: Saved, room: Room): Promise<Sampled> {
  const files = saved.files.get(measurement.scenario.artefact)!;
  const dir = path.dirname(files[0]!);
  // A restore may have put files beside those that were saved.
  const beside = readdirSync(dir).map((file) => path.join(dir, file));
  return measure(measurement, { ...saved, files: [...new Set([...files, ...beside])] }, room);
}

async function withPrediction(sampled: Sampled, touched: Touched | undefined): Promise<Sampled> {
  const prediction = touched && (await heldAgainst(touched));
  return prediction && sampled.transfer
    ? { ...sampled, transfer: { ...sampled.transfer, prediction } }
    : sampled;
}

/** The second half of the time it was watched: by then everything has been touched and translated. */
function referenceOf({ ramMib, answers, observedMs }: Sampled, observeMs: number): Reference {
  const fromMs = observedMs - observeMs / 2;
  const perS = eachClient((name) => throughput(answers[name].answeredMs, fromMs, observedMs));
  return { ramMib, perS };
}

function held(sampled: Sampled, { perS }: Reference): Run {
  const { answers, observedMs } = sampled;
  return {
    ...sampled,
    perceived: eachClient((name) => perceive({ ...answers[name], observedMs, referencePerS: perS[name] })),
  };
}

function eachClient<T>(make: (name: ClientName) => T): Record<ClientName, T> {
  return Object.fromEntries(CLIENT_NAMES.map((name) => [name, make(name)])) as Record<ClientName, T>;
}

function unavailable(scenarios: readonly Scenario[], { version }: Saved, ramMib: number): Absence[] {
  return scenarios.flatMap(({ name, artefact }) => {
    const reason = ARTEFACTS[artefact].problem?.(version);
    return reason === undefined ? [] : [{ scenario: name, ramMib, cache: null, reason }];
  });
}

/** What vmckpt does, done by another build. @throws VmckptError FILE_UNREADABLE */
async function otherBuild(scenarios: readonly Scenario[], checkout: string | undefined): Promise<Scenario[]> {
  if (checkout === undefined) return [];
  const library = path.join(checkout, 'dist/index.js');
  if (!existsSync(library))
    throw new VmckptError(
      'FILE_UNREADABLE',
      `there is no build of vmckpt in ${checkout}: ${library} is missing`,
      {
        hint: 'Run npm ci and npm run build in that checkout.',
      },
    );
  const other = (await import(pathToFileURL(library).href)) as Pick<SavedGuest, 'restore'>;
  return scenarios
    .filter(({ artefact }) => artefact.startsWith('checkpoint'))
    .map((scenario) => byOtherBuild(scenario, other.restore));
}

function requireScenario(name: string): Scenario {
  const found = SCENARIOS.find((scenario) => scenario.name === name);
  if (found !== undefined) return found;
  throw new VmckptError('USAGE', `there is no scenario "${name}"`, {
    hint: `There are: ${SCENARIOS.map((scenario) => scenario.name).join(', ')}.`,
  });
}

function largestOf({ files }: Saved): string {
  const all = files.get(REFERENCE.artefact)!;
  return all.reduce((largest, file) => (statSync(file).size > statSync(largest).size ? file : largest));
}
