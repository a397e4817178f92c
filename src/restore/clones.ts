/** `restore --count N`: clones NAME.1 … NAME.N of one generation, a few at a time, each a restore of its own. */
import { availableParallelism } from 'node:os';
import { VmckptError, type ErrorCode, type ErrorKind } from '../errors.js';
import { type Manifest } from '../checkpoint/manifest.js';
import { requireRoom } from '../qemu/memory-room.js';
import { Store } from '../store/store.js';
import { restore } from './restore.js';
import type { RestoreReport } from './report.js';
import type { RestoreOptions } from './attempt.js';
import { listVmFolders, VmFolder } from '../vms/folder.js';
import { statusOf } from '../vms/status.js';

export const MAX_CLONES = 1000;

export interface ClonesOptions extends Omit<RestoreOptions, 'vmName' | 'identity'> {
  /** From 1 to MAX_CLONES. */
  readonly count: number;
  /** The clones are called BASE.1, BASE.2 …: like the checkpoint by default. */
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

/** What would happen to the other clones, too. */
const COMMON_KINDS: ReadonlySet<ErrorKind> = new Set([
  'usage',
  'notFound',
  'notPermitted',
  'damaged',
  'incompatible',
]);

/** @throws VmckptError as restore() when no clone has come up; INTERRUPTED naming those that run on */
export async function restoreClones(options: ClonesOptions): Promise<ClonesReport> {
  const store = await Store.open(options.storeDir, { trustForeign: options.trustCommandLine });
  const { name, number: generation, manifest } = await store.locate(options.reference);
  const { ramBytes, nonZeroBytes: dataBytes } = manifest.sizes;
  const need = { vmCount: options.count, ramBytes, dataBytes, isMapped: options.mode === 'map' };
  const from = { args: options.qemuArgs ?? manifest.commandLine, cwd: manifest.workingDirectory ?? '/' };
  requireRoom({ ...need, ...from }, options.memoryRoom ?? 'required', options.onMessage);
  const names = freeNames(options.baseName ?? name, options.count);
  // A save in between must not make siblings of different generations.
  const start = startOf({ ...options, reference: `${name}@${generation}` }, manifest);
  const { clones, failures } = await startAll(names, start, options.signal);
  if (options.signal.aborted) throw interrupted(names);
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

/** Numbers go on behind those of the clones that live. */
function freeNames(base: string, count: number): string[] {
  const numbers = listVmFolders().flatMap((folder) => {
    const record = folder.read();
    const lives = record !== undefined && statusOf(record, folder.readTransfer()) !== 'ended';
    const number = folder.name.startsWith(`${base}.`)
      ? Number(folder.name.slice(base.length + 1))
      : Number.NaN;
    return lives && Number.isInteger(number) ? [number] : [];
  });
  const last = Math.max(0, ...numbers);
  return Array.from({ length: count }, (_, index) => `${base}.${last + index + 1}`);
}

/** Starts one clone; its words are told apart by its name, its progress is part of that of all. */
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

async function startAll(
  names: readonly string[],
  start: (vmName: string) => Promise<RestoreReport>,
  signal: AbortSignal,
): Promise<{ clones: RestoreReport[]; failures: Failure[] }> {
  const clones: RestoreReport[] = [];
  const failures: Failure[] = [];
  const waiting = [...names];
  const startSome = async () => {
    while (waiting.length > 0 && !signal.aborted) {
      const vmName = waiting.shift()!;
      try {
        clones.push(await start(vmName));
      } catch (error) {
        if (!(error instanceof VmckptError)) throw error;
        failures.push({ vmName, error });
        if (COMMON_KINDS.has(error.kind)) waiting.length = 0;
      }
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, startSome));
  return { clones: clones.sort((a, b) => names.indexOf(a.vmName) - names.indexOf(b.vmName)), failures };
}

function interrupted(names: readonly string[]): VmckptError {
  const running = names.filter((name) => {
    const folder = new VmFolder(name);
    const record = folder.read();
    return record?.qemu !== undefined && statusOf(record, folder.readTransfer()) !== 'ended';
  });
  if (running.length === 0) return new VmckptError('INTERRUPTED', 'interrupted: no clone runs');
  return new VmckptError('INTERRUPTED', `interrupted; these VMs run on: ${running.join(', ')}`, {
    hint: `End them with: vmckpt stop ${running.join(' ')}`,
  });
}

function noneCameUp(error: VmckptError, count: number): VmckptError {
  const message = count === 1 ? error.message : `none of ${count} clones came up: ${error.message}`;
  return new VmckptError(error.code, message, { hint: error.hint, cause: error });
}
