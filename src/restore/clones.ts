/** `restore --count N`: clones NAME.1 … NAME.N of one generation, a few at a time, each by its own restore. */
import { availableParallelism } from 'node:os';
import { VmckptError, type ErrorCode, type ErrorKind } from '../errors.js';
import { type Manifest } from '../checkpoint/manifest.js';
import { requireRoom } from '../qemu/memory-room.js';
import type { Generation } from '../store/generation.js';
import { findGeneration } from './find-generation.js';
import { restore } from './restore.js';
import type { RestoreReport } from './report.js';
import type { RestoreOptions } from './attempt.js';
import { listVmFolders, VmFolder } from '../vms/folder.js';
import { statusOf } from '../vms/status.js';

export const MAX_CLONES = 1000;

export interface ClonesOptions extends Omit<RestoreOptions, 'vmName' | 'identity'> {
  /** From 1 to MAX_CLONES. */
  readonly count: number;
  /** The clones are called BASE.1, BASE.2 …; by default BASE is the checkpoint's name. */
  readonly baseName?: string | undefined;
}

export interface FailedClone {
  readonly vmName: string;
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string | undefined;
}

export interface ClonesReport {
  readonly name: string;
  readonly generation: number;
  readonly clones: readonly RestoreReport[];
  readonly failed: readonly FailedClone[];
}

/** Errors that every other clone would meet as well. */
const COMMON_KINDS: ReadonlySet<ErrorKind> = new Set([
  'usage',
  'notFound',
  'notPermitted',
  'damaged',
  'incompatible',
]);

/** @throws VmckptError as restore() when no clone has started; INTERRUPTED naming those that keep running */
export async function restoreClones(options: ClonesOptions): Promise<ClonesReport> {
  const found = await findGeneration(options);
  try {
    return await restoreClonesOf(found.generation, options);
  } finally {
    found.release();
  }
}

async function restoreClonesOf(
  { name, number: generation, manifest }: Generation,
  options: ClonesOptions,
): Promise<ClonesReport> {
  const { ramBytes, nonZeroBytes: dataBytes } = manifest.sizes;
  const need = { vmCount: options.count, ramBytes, dataBytes, isMapped: options.mode === 'map' };
  const from = { args: options.qemuArgs ?? manifest.commandLine, cwd: manifest.workingDirectory ?? '/' };
  requireRoom({ ...need, ...from }, options.memoryRoom ?? 'required', options.onMessage);
  const names = new CloneNames(options.baseName ?? name);
  // Siblings must be of one generation, even if a save happens in between.
  const start = startOf({ ...options, reference: `${name}@${generation}` }, manifest);
  const { clones, failures, tried } = await startAll(names, start, options);
  if (options.signal.aborted) throw interrupted(tried);
  const [first] = failures;
  if (first !== undefined && clones.length === 0) throw noneCameUp(first.error, options.count);
  const failed = failures.map(({ vmName, error: { code, message, hint } }) => ({
    vmName,
    code,
    message,
    hint,
  }));
  return { name, generation, clones, failed };
}

/** Numbers continue after those of living clones, and skip any that another restore takes in the meantime. */
class CloneNames {
  readonly #base: string;
  #last: number;

  constructor(base: string) {
    this.#base = base;
    const numbers = listVmFolders().flatMap((folder) => {
      const record = folder.read();
      const lives = record !== undefined && statusOf(record, folder.readTransfer()) !== 'ended';
      const number = folder.name.startsWith(`${base}.`)
        ? Number(folder.name.slice(base.length + 1))
        : Number.NaN;
      return lives && Number.isInteger(number) ? [number] : [];
    });
    this.#last = Math.max(0, ...numbers);
  }

  next(): string {
    return `${this.#base}.${++this.#last}`;
  }
}

/** Starts one clone. Its messages are prefixed with its name; its progress counts towards the total. */
function startOf(options: ClonesOptions, { sizes }: Manifest): (vmName: string) => Promise<RestoreReport> {
  const doneBytes = new Map<string, number>();
  return async (vmName) =>
    restore({
      ...options,
      vmName,
      identity: 'clone',
      memoryRoom: 'judged',
      onMessage: (text) => options.onMessage(`${vmName}: ${text}`),
      onProgress: (done) => {
        doneBytes.set(vmName, done);
        const allDone = [...doneBytes.values()].reduce((sum, bytes) => sum + bytes, 0);
        options.onProgress(allDone, options.count * sizes.nonZeroBytes);
      },
    });
}

interface Failure {
  readonly vmName: string;
  readonly error: VmckptError;
}

interface Started {
  readonly clones: readonly RestoreReport[];
  readonly failures: readonly Failure[];
  /** In numerical order. */
  readonly tried: readonly string[];
}

async function startAll(
  names: CloneNames,
  start: (vmName: string) => Promise<RestoreReport>,
  { count, signal }: Pick<ClonesOptions, 'count' | 'signal'>,
): Promise<Started> {
  const clones: RestoreReport[] = [];
  const failures: Failure[] = [];
  const tried: string[] = [];
  let left = count;
  const startOne = async (): Promise<void> => {
    for (;;) {
      const vmName = names.next();
      tried.push(vmName);
      try {
        clones.push(await start(vmName));
        return;
      } catch (error) {
        if (!(error instanceof VmckptError)) throw error;
        // Another restore has taken the name since the numbers were chosen.
        if (error.code === 'VM_BUSY') continue;
        failures.push({ vmName, error });
        if (COMMON_KINDS.has(error.kind)) left = 0;
        return;
      }
    }
  };
  const startSome = async () => {
    while (left > 0 && !signal.aborted) {
      left--;
      await startOne();
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, startSome));
  clones.sort((a, b) => tried.indexOf(a.vmName) - tried.indexOf(b.vmName));
  return { clones, failures, tried };
}

function interrupted(names: readonly string[]): VmckptError {
  const running = names.filter((name) => {
    const folder = new VmFolder(name);
    const record = folder.read();
    return record?.qemu !== undefined && statusOf(record, folder.readTransfer()) !== 'ended';
  });
  if (running.length === 0) return new VmckptError('INTERRUPTED', 'interrupted: no clone runs');
  return new VmckptError('INTERRUPTED', `interrupted; these VMs keep running: ${running.join(', ')}`, {
    hint: `End them with: vmckpt stop ${running.join(' ')}`,
  });
}

function noneCameUp(error: VmckptError, count: number): VmckptError {
  const message = count === 1 ? error.message : `none of ${count} clones started: ${error.message}`;
  return new VmckptError(error.code, message, { hint: error.hint, cause: error });
}
