/**
 * The story of `vmckpt bench resume`: for every size boot one guest, prepare data for its clients, save it in every
 * form that a scenario loads, and end it. Then restore it repeatedly, in shuffled order, each time into a new QEMU.
 * Everything that was started ends with the measurement, even if that is interrupted.
 */
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import type { QemuVersion } from '../qemu/qmp.js';
import { parse } from '../util/schema.js';
import { ARTEFACTS, makeArtefacts, type ArtefactName } from './artefact.js';
import { buildOf, THIS_BUILD, type Build } from './build.js';
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
  /** Another checkout, which is built: its saves and restores are measured in turns with those of this one. */
  readonly against?: string | undefined;
  readonly seed: number;
  readonly accel: Accelerator;
  readonly qemuBinary: string;
  readonly guestFiles: GuestFiles;
  /** For how long a guest is observed once it runs. */
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

/** @throws VmckptError USAGE for an unknown scenario, FAILED, INTERRUPTED and what save and restore throw */
export async function benchResume(options: BenchResumeOptions): Promise<ResumeReport> {
  const { outDir, sizesMib, rounds, seed, accel, observeMs } = options;
  const teams = await teamsOf(options);
  const scenarios = teams.flatMap((team) => team.scenarios);
  const host = describeHost();
  const dataDir = path.join(outDir, `measuring-${process.pid}`);
  makeFolder(dataDir);
  const workplace = openWorkplace(dataDir);
  const results: SizeResult[] = [];
  try {
    for (const ramMib of sizesMib) {
      const sizeDir = path.join(dataDir, `${ramMib}`);
      results.push(await measureSize({ options, teams, workplace, dataDir: sizeDir, ramMib }));
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

/** A build, and the scenarios that it carries out. The first team is that of this build. */
interface Team {
  readonly build: Build;
  readonly scenarios: readonly Scenario[];
}

interface SizeWork {
  readonly options: BenchResumeOptions;
  readonly teams: readonly Team[];
  readonly workplace: Workplace;
  /** Contains the checkpoints of the guest of this size. */
  readonly dataDir: string;
  readonly ramMib: number;
}

interface Saved extends Omit<SavedGuest, 'files'> {
  readonly files: ReadonlyMap<ArtefactName, readonly string[]>;
}

/** A scenario, and the checkpoint that it restores. */
interface Contender {
  readonly scenario: Scenario;
  readonly saved: Saved;
}

async function measureSize(work: SizeWork): Promise<SizeResult> {
  const { options, workplace, ramMib } = work;
  const { onMessage, seed, observeMs, rounds } = options;
  const contenders = await prepare(work);
  const { saved } = contenders[0]!;
  const room: Room = { runtimeDir: workplace.runtimeDir, values: valuesFor(ramMib), observeMs };
  onMessage(`${ramMib} MiB: what its clients reach at best`);
  const first = { scenario: REFERENCE, saved };
  const settled = await measureOne(first, { cache: 'warm', round: 0, seed }, room);
  const reference = referenceOf(settled, observeMs);
  const absences = contenders.flatMap((contender) => unavailable(contender, ramMib));
  const possible = contenders.filter(({ scenario, saved }) => saved.files.has(scenario.artefact));
  for (const contender of possible) await train(contender, work, room);
  const touched = await touchedBy(possible, work, room);
  const runs = [held(settled, reference)];
  const random = seededRandom(seed);
  for (let round = 1; round <= rounds; round++) {
    const all = possible.flatMap((contender) => CACHE_STATES.map((cache) => ({ contender, cache })));
    for (const [at, { contender, cache }] of shuffled(all, random).entries()) {
      const { name } = contender.scenario;
      if (absences.some((each) => each.scenario === name && each.cache === cache)) continue;
      onMessage(`${ramMib} MiB, round ${round} of ${rounds}, ${at + 1} of ${all.length}: ${name}, ${cache}`);
      try {
        const sampled = await measureOne(contender, { cache, round, seed: seed + round }, room);
        runs.push(held(await withPrediction(sampled, touched.get(contender)), reference));
      } catch (error) {
        options.signal.throwIfAborted();
        const reason = `failed: ${(error as Error).message}`;
        onMessage(`${name}, ${cache} ${reason}`);
        absences.push({ scenario: name, ramMib, cache, reason });
      }
    }
  }
  const { version, files, guest } = saved;
  const diskReadBytesPerS = await diskReadRate(largestOf(saved));
  onMessage(`${ramMib} MiB: the fault path by itself`);
  const faultPath = await measureFaultPath({ files, ramBytes: guest.ramBytes, rounds, seed });
  return { reference, runs, absences, faultPath, version, diskReadBytesPerS };
}

/** Boots and fills the guest, has each build save it in every form that its scenarios need, and ends it. */
async function prepare({ options, teams, workplace, dataDir, ramMib }: SizeWork): Promise<Contender[]> {
  const { qemuBinary: binary, guestFiles, accel, signal, onMessage } = options;
  onMessage(`${ramMib} MiB: booting a guest`);
  const bootDir = path.join(workplace.dir, `${ramMib}`);
  mkdirSync(bootDir);
  const prepared = await prepareGuest({ dir: bootDir, binary, files: guestFiles, accel, ramMib, signal });
  const { guest, version } = prepared;
  try {
    const contenders: Contender[] = [];
    for (const [at, { build, scenarios }] of teams.entries()) {
      const dir = path.join(dataDir, `${at}`);
      const storeDir = path.join(dir, 'store');
      const needed = at === 0 ? [REFERENCE, ...scenarios] : scenarios;
      const names = [...new Set(needed.map(({ artefact }) => artefact))];
      const workshop = { guest, build, storeDir, dir, signal, version, onMessage };
      const files = await makeArtefacts(names, workshop);
      const saved = { guest, version, storeDir, restore: build.restore, signal, files };
      contenders.push(...scenarios.map((scenario) => ({ scenario, saved })));
    }
    return contenders;
  } finally {
    await guest.stop();
  }
}

async function train(contender: Contender, { options, ramMib }: SizeWork, room: Room): Promise<void> {
  const { scenario, saved } = contender;
  const lessons = scenario.training ?? [];
  for (const [at, restore] of lessons.entries()) {
    options.onMessage(`${ramMib} MiB: ${scenario.name} learns, ${at + 1} of ${lessons.length}`);
    const lesson = { scenario: { ...scenario, restore }, saved };
    await measureOne(lesson, { cache: 'warm', round: 0, seed: options.seed - 1 - at }, room);
  }
}

/** The pages that the guests of predicting scenarios touch. Another build may note its restores in another way. */
async function touchedBy(
  contenders: readonly Contender[],
  { options, teams, ramMib }: SizeWork,
  room: Room,
): Promise<ReadonlyMap<Contender, Touched>> {
  const touched = new Map<Contender, Touched>();
  const predicting = contenders.filter(({ scenario }) => scenario.training !== undefined);
  for (const contender of predicting) {
    const { scenario, saved } = contender;
    if (!teams[0]!.scenarios.includes(scenario)) continue;
    options.onMessage(`${ramMib} MiB: what the guest of ${scenario.name} touches`);
    const generationDir = path.dirname(saved.files.get(scenario.artefact)![0]!);
    const wishes = { reference: scenario.artefact, generationDir, seed: options.seed };
    const found = await touchedPages({ ...saved, files: [] }, wishes, room);
    if (found !== undefined) touched.set(contender, found);
  }
  return touched;
}

function measureOne(
  { scenario, saved }: Contender,
  how: Omit<Measurement, 'scenario'>,
  room: Room,
): Promise<Sampled> {
  const files = saved.files.get(scenario.artefact)!;
  const dir = path.dirname(files[0]!);
  // A restore may have put files beside those that were saved.
  const beside = readdirSync(dir).map((file) => path.join(dir, file));
  return measure({ scenario, ...how }, { ...saved, files: [...new Set([...files, ...beside])] }, room);
}

async function withPrediction(sampled: Sampled, touched: Touched | undefined): Promise<Sampled> {
  const prediction = touched && (await heldAgainst(touched));
  return prediction && sampled.transfer
    ? { ...sampled, transfer: { ...sampled.transfer, prediction } }
    : sampled;
}

/** Rates of the second half of the observation: the guest has touched all of its memory, and QEMU has translated it. */
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

function unavailable({ scenario, saved }: Contender, ramMib: number): Absence[] {
  const reason = ARTEFACTS[scenario.artefact].problem?.(saved.version);
  return reason === undefined ? [] : [{ scenario: scenario.name, ramMib, cache: null, reason }];
}

/** @throws VmckptError USAGE, FILE_UNREADABLE */
async function teamsOf({ scenarios, against }: BenchResumeOptions): Promise<Team[]> {
  const chosen = scenarios.map(requireScenario);
  const team = { build: THIS_BUILD, scenarios: chosen };
  if (against === undefined) return [team];
  const both = chosen.filter(({ artefact }) => artefact.startsWith('checkpoint'));
  return [team, { build: await buildOf(against), scenarios: both.map(byOtherBuild) }];
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
