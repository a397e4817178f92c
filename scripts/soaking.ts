/**
 * The story of a soak: one guest, saved and restored again and again, and each time something is killed with -9 at
 * a random moment: the verb, the process that serves memory, its keeper, the receiver of a save, or several. Each run
 * ends with a guest that has checked all of its memory. The same seed kills at the same moments again, as far as
 * the machine's own timing repeats.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Accelerator } from '../src/bench/guest.js';
import { QmpClient } from '../src/qemu/qmp.js';
import { listVms } from '../src/vms/list.js';
import { VmFolder } from '../src/vms/folder.js';
import type { VmStatus } from '../src/vms/status.js';
import type { SaveReport } from '../src/save/save.js';
import { startCli } from '../test/support/command.js';
import { killKeeper, killTransfer, pidsOf, Random, storeProblems } from '../test/support/faults.js';
import { killAndWait } from '../test/support/processes.js';
import { bareSubject, linuxSubject, requireWhole, restoreArgs, timed, type Subject } from './subjects.js';
import type { Workplace } from './workplace.js';

const NAME = 'soak';
/** Kills come until this much later than the undisturbed operation would have ended. */
const LATER = 1.1;
/** How often a restore that is being brought back may be killed once more. */
const KILL_AGAIN = 0.3;
const MAX_ATTEMPTS = 20;
const SETTLE_TIMEOUT_MS = 60_000;
const RESTORE_VICTIMS = [
  ['verb'],
  ['transfer'],
  ['keeper'],
  ['verb', 'transfer'],
  ['transfer', 'keeper'],
  ['verb', 'transfer', 'keeper'],
] as const satisfies readonly (readonly ('verb' | 'transfer' | 'keeper')[])[];

export interface SoakOptions {
  readonly runs: number;
  readonly seed: number;
  readonly qemu: string;
  /** Under KVM the guest is the one without a kernel. */
  readonly accel?: Accelerator;
  readonly workplace: Workplace;
  readonly onRun: (run: SoakRun) => void;
}

export interface SoakRun {
  readonly number: number;
  /** What was killed, of what: `restore: verb and transfer`. */
  readonly fault: string;
  readonly afterMs: number;
  /** How the VM came back: `by itself`, `resumed`, `restored again`, `saved again`. */
  readonly ending: string;
  readonly tookMs: number;
}

interface Soak {
  readonly guest: Subject;
  readonly random: Random;
  readonly workplace: Workplace;
  /** How long the operations take undisturbed. */
  readonly restoreMs: number;
  readonly saveMs: number;
}

type Outcome = Omit<SoakRun, 'number' | 'tookMs'>;

/** @throws Error that names the run and the seed, when a guest does not come back whole */
export async function soak({ runs, seed, onRun, ...options }: SoakOptions): Promise<void> {
  const { workplace } = options;
  const prepared = await prepare({ ...options, random: new Random(seed) });
  for (let number = 1; number <= runs; number++) {
    const startMs = performance.now();
    try {
      const outcome = await (prepared.random.next() < 0.25 ? killSave(prepared) : killRestore(prepared));
      await requireWhole(prepared.guest, workplace);
      onRun({ number, ...outcome, tookMs: Math.round(performance.now() - startMs) });
    } catch (cause) {
      throw new Error(`run ${number} of seed ${seed} failed: ${(cause as Error).message}`, { cause });
    }
  }
  await workplace.vmckpt(['stop', NAME]);
}

/** Boots the guest, saves and restores it once in peace; it runs restored then. */
async function prepare({
  qemu,
  accel = 'tcg',
  workplace,
  random,
}: Pick<Soak, 'workplace' | 'random'> & Pick<SoakOptions, 'qemu' | 'accel'>): Promise<Soak> {
  const { dir, vmckpt } = workplace;
  const guest = await (accel === 'kvm' ? bareSubject({ dir, qemu, accel, smp: 2 }) : linuxSubject(dir, qemu));
  const saveMs = await timed(() => vmckpt(['save', `qmp:${guest.qmpSocket}`, NAME]));
  await guest.stop();
  // The second one finds everything in the page cache, as all that follow do.
  await vmckpt(restoreArgs(guest, NAME));
  await vmckpt(['stop', NAME]);
  const restoreMs = await timed(() => vmckpt(restoreArgs(guest, NAME)));
  const soak = { guest, random, workplace, restoreMs, saveMs };
  await requireWhole(guest, workplace);
  return soak;
}

async function killRestore(soak: Soak): Promise<Outcome> {
  const { guest, random, workplace, restoreMs } = soak;
  await workplace.vmckpt(['stop', NAME]);
  const victims: readonly string[] = random.pick(RESTORE_VICTIMS);
  const path = random.next() < 0.75 ? 'direct' : 'stream';
  const restore = startCli(['--json', ...restoreArgs(guest, NAME), '--path', path]);
  const afterMs = await random.pause(restoreMs * LATER);
  if (victims.includes('keeper')) killKeeper(NAME);
  if (victims.includes('transfer')) killTransfer(NAME);
  if (victims.includes('verb')) restore.kill();
  await restore.ended;
  return { fault: `restore (${path}): ${victims.join(', ')}`, afterMs, ending: await bringBack(soak) };
}

/** What a user does until the VM is there with all of its memory; sometimes that is cut off, too. */
async function bringBack({ guest, random, restoreMs }: Soak): Promise<string> {
  let ending = 'by itself';
  let status: VmStatus = 'ended';
  const endMs = performance.now() + SETTLE_TIMEOUT_MS;
  for (let attempt = 0; attempt < MAX_ATTEMPTS && performance.now() < endMs;) {
    status = listVms().find(({ name }) => name === NAME)?.status ?? 'ended';
    if (status === 'complete') return ending;
    if (status === 'serving' || status === 'starting') {
      await sleep(20);
      continue;
    }
    if (status === 'damaged') throw new Error('the checkpoint is found damaged');
    const lost = status === 'transfer-lost';
    ending = lost ? 'resumed' : 'restored again';
    const again = startCli(['--json', ...(lost ? ['restore', '--resume', NAME] : restoreArgs(guest, NAME))]);
    if (random.next() < KILL_AGAIN) {
      await random.pause(restoreMs);
      again.kill();
      if (random.next() < 0.5) killTransfer(NAME);
    }
    const { code, stderr } = await again.ended;
    // An earlier attempt that was cut off has come to serve it meanwhile.
    const isServed = stderr.includes('"VM_STATE"');
    if (code !== 0 && code !== null && !isServed) throw new Error(`${ending}, but: ${stderr.trim()}`);
    attempt++;
  }
  const log = readFileSync(new VmFolder(NAME).file('transfer.log'), 'utf8');
  throw new Error(
    `the VM is ${status} after ${MAX_ATTEMPTS} attempts or ${SETTLE_TIMEOUT_MS} ms; its transfers say: ${log}`,
  );
}

/** The VM runs on, and a save in peace puts everything right; its generation is the next to be restored. */
async function killSave(soak: Soak): Promise<Outcome> {
  const { guest, random, workplace, saveMs } = soak;
  const { vmckpt, runtimeDir } = workplace;
  // A background-snapshot that loses its receiver, too, freezes a QEMU before 10: tests of their own thaw it.
  const survives = Number((await versionOf(guest)).major) >= 10;
  const victim = random.pick(survives ? ['verb', 'receiver', 'verb and receiver'] : ['verb']);
  const stop = random.next() < 0.3;
  const args = ['save', `qmp:${guest.qmpSocket}`, NAME];
  const [before] = await generations(soak);
  const save = startCli(['--json', ...args, ...(stop ? ['--stop'] : [])]);
  const afterMs = await random.pause(saveMs * LATER);
  if (victim !== 'verb') for (const pid of pidsOf(runtimeDir, 'receiver')) await killAndWait(pid);
  if (victim !== 'receiver') save.kill();
  await save.ended;
  // A generation may be complete although its process did not live to say so; then the VM is paused, as asked.
  const [after] = await generations(soak);
  if (stop && after !== before) await letRun(guest);
  const { generation } = await vmckpt<SaveReport>(args);
  const problems = await storeProblems(workplace.storeDir);
  if (problems.length > 0) throw new Error(`the store has problems: ${problems.join('; ')}`);
  for (const old of await generations(soak)) if (old < generation) await vmckpt(['rm', `${NAME}@${old}`]);
  return { fault: `save${stop ? ' --stop' : ''}: ${victim}`, afterMs, ending: 'saved again' };
}

/** Newest first. */
async function generations({ workplace }: Soak): Promise<number[]> {
  const { checkpoints } = await workplace.vmckpt<{ checkpoints: { generation: number }[] }>(['list']);
  return checkpoints.map(({ generation }) => generation).sort((a, b) => b - a);
}

async function letRun({ qmpSocket }: Subject): Promise<void> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  await qmp.execute('cont');
  await qmp.close();
}

async function versionOf({ qmpSocket }: Subject): Promise<QmpClient['version']> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  await qmp.close();
  return qmp.version;
}
