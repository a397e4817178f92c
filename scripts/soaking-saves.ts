/**
 * The story of a soak of saves: one guest is saved again and again, and older generations are removed, and each time
 * something is killed with -9 on the way: the verb, the program that traces, QEMU, or several; at a random moment, or at
 * one of the steps. Each run ends with a guest that is whole, and generations of which every checksum is right; every few
 * runs each generation is restored, and its guest checks itself.
 */
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import type { Accelerator } from '../src/bench/guest.js';
import { VmJournal } from '../src/save/vm-journal.js';
import { QmpClient } from '../src/qemu/qmp.js';
import { Store } from '../src/store/store.js';
import type { ParkingPoint } from '../src/util/park.js';
import { identifyProcess } from '../src/util/process-identity.js';
import { startCli, type RunningCli } from '../test/support/command.js';
import { Random, storeProblems, untilParked, untilSaid } from '../test/support/faults.js';
import { killAndWait, processesOf } from '../test/support/processes.js';
import { TRACKER_POINTS, userfaultfdsOf } from '../test/support/traced.js';
import type { SoakOptions, SoakRun } from './soaking.js';
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

const NAME = 'chain';
const KEPT = 4;
/** After so many kills all generations are restored. */
const KILLS_PER_CHAIN = 10;
/** Kills come until this much later than the undisturbed save would have ended. */
const LATER = 1.1;
const RAM_MB = 32;
const VICTIMS = [
  ['verb'],
  ['verb'],
  ['QEMU'],
  ['QEMU'],
  ['verb', 'QEMU'],
  ['tracker'],
  ['tracker', 'verb'],
  ['tracker', 'QEMU'],
] as const satisfies readonly (readonly Victim[])[];
const POINTS = ['streaming', 'paused', 'committing'] as const satisfies readonly ParkingPoint[];
/** How many of the saves that make no userfaultfd find the VM tracked, and have points of their own. */
const TRACKED_SHARE = 0.4;
/** Such a save may read nothing while the VM runs. */
const TRACKED_POINTS = [
  'tracked',
  'paused',
  'committing',
  'keeping',
] as const satisfies readonly ParkingPoint[];
const MODES = ['eager', 'lazy', 'prefetch'];

type Victim = 'verb' | 'tracker' | 'QEMU';

interface Soak {
  readonly guest: Subject;
  readonly random: Random;
  readonly workplace: Workplace;
  /** How long a save takes undisturbed. */
  readonly saveMs: number;
}

type Outcome = Pick<SoakRun, 'fault' | 'afterMs'>;

/** @throws Error that names the run and the seed, when the guest or a generation is not whole */
export async function soakSaves(options: SoakOptions & { readonly accel: Accelerator }): Promise<void> {
  const { runs, seed, qemu, accel, workplace, onRun } = options;
  const { dir } = workplace;
  const guest = await bareSubject({ dir, qemu, accel, smp: 1, ramMb: RAM_MB });
  for (let count = 1; count < KEPT; count++) await save({ guest, workplace }, { track: false });
  const saveMs = await timed(() => workplace.vmckpt(saveArgs(guest)));
  await save({ guest, workplace }, { track: false });
  const soak = { guest, random: new Random(seed), workplace, saveMs };
  for (let number = 1; number <= runs; number++) {
    const startMs = performance.now();
    try {
      const outcome = await killSave(soak);
      const ending = await bringBack(soak);
      await requireSound(soak);
      if (number % KILLS_PER_CHAIN === 0 || number === runs) await requireRestorable(soak);
      onRun({ number, ...outcome, ending, tookMs: Math.round(performance.now() - startMs) });
    } catch (cause) {
      throw new Error(`run ${number} of seed ${seed} failed: ${(cause as Error).message}`, { cause });
    }
  }
  await workplace.vmckpt(['stop', NAME]);
}

function saveArgs({ qmpSocket }: Subject): string[] {
  return ['save', '--track', '--keep-last', `${KEPT}`, `qmp:${qmpSocket}`, NAME];
}

async function save(
  { guest, workplace }: Pick<Soak, 'guest' | 'workplace'>,
  { track }: { readonly track: boolean },
): Promise<void> {
  await captureHere(guest, workplace, { name: NAME, kept: KEPT, track });
}

/** Where the verb is parked, or the tracing program; undefined: it is killed at a random moment. */
function pickPoint(random: Random, { isTraced, isTracked }: { isTraced: boolean; isTracked: boolean }) {
  if (isTraced) return random.pick(TRACKER_POINTS);
  if (random.next() < 0.5) return undefined;
  return isTracked ? random.pick(TRACKED_POINTS) : random.pick(POINTS);
}

async function killSave({ guest, random, workplace, saveMs }: Soak): Promise<Outcome> {
  const victims: readonly Victim[] = random.pick(VICTIMS);
  const isTraced = victims.includes('tracker');
  const isTracked = !isTraced && random.next() < TRACKED_SHARE;
  if (isTracked) await save({ guest, workplace }, { track: true });
  const point = pickPoint(random, { isTraced, isTracked });
  const env = point === undefined ? {} : { VMCKPT_PARK: point };
  const saving = startCli(['--json', ...saveArgs(guest)], { env });
  let afterMs = 0;
  if (point === undefined) afterMs = await random.pause(saveMs * LATER);
  else if (isTraced) await untilSaid(saving, `is parked at ${point}`);
  else await untilParked(saving, point as ParkingPoint);
  // The verb first: it would go on without the others.
  if (victims.includes('verb')) saving.kill();
  if (victims.includes('QEMU')) await killAndWait(qemuOf(workplace));
  if (isTraced) process.kill(parkedProcess(saving), 'SIGKILL');
  else if (point !== undefined) saving.kill('SIGCONT');
  const { code, json } = await saving.ended;
  if (code !== 0) requireNamed(json, victims);
  const of = isTracked ? ' of a tracked save' : '';
  return { fault: `${victims.join(', ')}${of}${point === undefined ? '' : ` at "${point}"`}`, afterMs };
}

function parkedProcess(saving: RunningCli): number {
  return Number(/process (\d+) is parked/.exec(saving.said())![1]);
}

/** A verb that lives says why it has failed: because QEMU has ended. */
function requireNamed(json: unknown, victims: readonly Victim[]): void {
  if (victims.includes('verb')) return;
  const code = (json as { error?: { code?: string } } | undefined)?.error?.code;
  if (
    victims.includes('QEMU') &&
    code !== undefined &&
    ['QEMU_DIED', 'QMP_CLOSED', 'QMP_UNREACHABLE'].includes(code)
  )
    return;
  throw new Error(`the save ended with ${JSON.stringify(json)}`);
}

/** A VM whose QEMU has ended is restored; then, and otherwise, a save in peace puts everything right. */
async function bringBack({ guest, workplace }: Soak): Promise<string> {
  const isGone = processesOf(workplace.runtimeDir).every(({ program }) => !program.startsWith('qemu'));
  if (isGone) await workplace.vmckpt(restoreArgs(guest, NAME));
  await save({ guest, workplace }, { track: false });
  return isGone ? 'restored' : 'ran on';
}

/** The guest is whole, so is what is stored, and nothing of ours is left anywhere. */
async function requireSound({ guest, workplace }: Soak): Promise<void> {
  const { runtimeDir, storeDir } = workplace;
  await requireWhole(guest, workplace);
  const store = await Store.open(storeDir);
  const pid = qemuOf(workplace);
  const problems = [
    ...(await storeProblems(storeDir)),
    ...(await store.leftovers()).map((folder) => `${folder} is left`),
    ...userfaultfdsOf(pid).map((fd) => `QEMU has a userfaultfd (${fd})`),
    ...(await fdSetsOf(guest)).map((set) => `QEMU has the set of descriptors ${JSON.stringify(set)}`),
    ...processesOf(runtimeDir)
      .filter(({ program }) => /^(node|vmckpt-)/.test(program))
      .map((left) => `the process ${left.pid} (${left.program}) is left`),
  ];
  const kept = (await store.generations(NAME)).length;
  if (kept !== KEPT) problems.push(`${kept} generations, ${KEPT} expected`);
  const journal = VmJournal.open(identifyProcess(pid)!);
  if (journal.read() !== undefined) problems.push('a note of what is to be put right in the VM is left');
  journal.close();
  const saves = path.join(runtimeDir, 'saves');
  if (existsSync(saves)) problems.push(...readdirSync(saves).map((folder) => `${saves}/${folder} is left`));
  if (problems.length > 0) throw new Error(problems.join('; '));
}

async function fdSetsOf({ qmpSocket }: Subject): Promise<object[]> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  const sets = (await qmp.execute('query-fdsets')) as object[];
  await qmp.close();
  return sets;
}

/** Every generation has a guest that is whole. That of the newest one runs on. */
async function requireRestorable({ guest, random, workplace }: Soak): Promise<void> {
  for (const generation of await (await Store.open(workplace.storeDir)).generations(NAME)) {
    await killAndWait(qemuOf(workplace));
    await workplace.vmckpt(restoreArgs(guest, '--mode', random.pick(MODES), `${NAME}@${generation}`));
    await requireWhole(guest, workplace);
  }
}
