/** What fault tests and soak runs need: moments that can be repeated, and what must hold after every fault. */
import { existsSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import { readMigrationSettings, type MigrationSettings } from '../../src/qemu/migration-control.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { VmFolder } from '../../src/vms/folder.js';
import type { VmRecord } from '../../src/vms/records.js';
import { Store } from '../../src/store/store.js';
import type { ParkingPoint } from '../../src/util/park.js';
import { isAlive } from '../../src/util/process-identity.js';
import { sendSignal, SIGKILL } from '../../src/vms/processes.js';
import type { CliResult, RunningCli } from './command.js';
import { processesOf } from './processes.js';
import { until } from './until.js';

/** The seed of this run: `VMCKPT_SEED` repeats one. */
export function chooseSeed(): number {
  return Number(process.env['VMCKPT_SEED'] ?? Date.now() % 1_000_000);
}

/** Mulberry32: small, and the same everywhere. */
export class Random {
  #state: number;

  constructor(readonly seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 up to, but not including, 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[Math.floor(this.next() * choices.length)]!;
  }

  /** Waits for some time below `limitMs`, and returns it. */
  async pause(limitMs: number): Promise<number> {
    const pauseMs = Math.round(this.next() * limitMs);
    await sleep(pauseMs);
    return pauseMs;
  }
}

export async function settingsOf(qmpSocket: string): Promise<MigrationSettings> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  try {
    return await readMigrationSettings(qmp);
  } finally {
    await qmp.close();
  }
}

/** What is wrong with the generations that the store offers: nothing, whatever was killed. */
export async function storeProblems(storeDir: string): Promise<string[]> {
  if (!existsSync(storeDir)) return [];
  const store = await Store.open(storeDir);
  const problems: string[] = [];
  for (const { name, generation, problem } of await store.list()) {
    const reference = `${name}@${generation}`;
    if (problem !== undefined) problems.push(`${reference}: ${problem.message}`);
    else
      for (const { message } of (await checkCheckpoint((await store.locate(reference)).dir)).problems)
        problems.push(`${reference}: ${message}`);
  }
  return problems;
}

/** The QEMUs, serving processes, keepers or receivers that belong to a runtime folder. */
export function pidsOf(runtimeDir: string, program: 'qemu' | 'receiver' | 'keeper' | 'node'): number[] {
  const names = { qemu: /^qemu/, receiver: /^vmckpt-receiver$/, keeper: /^vmckpt-keeper$/, node: /^node$/ };
  return processesOf(runtimeDir)
    .filter((found) => names[program].test(found.program))
    .map(({ pid }) => pid);
}

/** The record of a VM that is being restored, as soon as it is noted that the VM runs. @throws when `restore` ends before that */
export async function untilRunning(name: string, restore: RunningCli): Promise<VmRecord> {
  let end: CliResult | undefined;
  void restore.ended.then((result) => (end = result));
  const folder = new VmFolder(name);
  const running = () => {
    const record = folder.read();
    if (record?.qemu !== undefined) return record;
    if (end !== undefined) throw new Error(`the restore of "${name}" ended with ${end.code}: ${end.stderr}`);
    return undefined;
  };
  return until(`"${name}" to run`, running);
}

/**
 * The process that serves the VM's memory, once it is parked there (src/util/park.ts).
 * @param former another process that was
 */
export async function parkedTransfer(name: string, point: ParkingPoint, former?: number): Promise<number> {
  const log = new VmFolder(name).file('transfer.log');
  const lastParked = new RegExp(`(\\d+) is parked at ${point}(?!.* is parked at )`, 's');
  return until(`the transfer of "${name}" to be parked at ${point}`, () => {
    const said = existsSync(log) ? readFileSync(log, 'utf8') : '';
    const pid = Number(lastParked.exec(said)?.[1]);
    return pid > 0 && pid !== former && pid;
  });
}

/** A verb that is parked there itself, once it is. */
export async function untilParked(verb: RunningCli, point: ParkingPoint): Promise<void> {
  await untilSaid(verb, `parked at ${point}`);
}

export async function untilSaid(verb: RunningCli, words: string): Promise<void> {
  let end: CliResult | undefined;
  void verb.ended.then((result) => (end = result));
  await until(words, () => {
    if (verb.said().includes(words)) return true;
    if (end !== undefined) throw new Error(`it ended with ${end.code} instead: ${end.stderr}`);
    return false;
  });
}

/** Kills the VM's keeper; false when it has none any more. */
export function killKeeper(name: string): boolean {
  const keeper = new VmFolder(name).read()?.keeper;
  if (keeper === undefined || !isAlive(keeper)) return false;
  sendSignal(keeper, SIGKILL);
  return true;
}

/** Kills the process that serves the VM's memory at this moment; false when it has none, or is done. */
export function killTransfer(name: string): boolean {
  const transfer = new VmFolder(name).readTransfer();
  if (transfer?.status !== 'serving') return false;
  try {
    process.kill(transfer.process.pid, 'SIGKILL');
    return true;
  } catch {
    return false;
  }
}
