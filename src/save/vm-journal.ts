/**
 * One save at a time per VM, and a note of what it has changed. The lock dies with its process; the note stays,
 * and the next vmckpt that touches the VM puts everything back (see putting-right.ts).
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { isFileLocked, tryLockFile } from '../native/index.js';
import { isAlive, isStopped, type ProcessIdentity } from '../util/process-identity.js';
import { readJsonFile, writeJsonFile } from '../util/json-file.js';
import { ensureRuntimeDir, findRuntimePath, runtimeDirs } from '../util/runtime-dir.js';
import { record } from '../util/schema.js';
import { SAVE_METHODS, type SaveMethod } from './methods.js';

const NOTE = 'journal.json';
/** The others run on by themselves. */
const PAUSING: readonly SaveMethod[] = ['capture', 'stopped'];

const noteSchema = v.object({
  /** The VM was running when the save began. */
  wasRunning: v.boolean(),
  /** A capture writes its note only where it pauses the VM, others for as long as they last. */
  method: v.picklist(SAVE_METHODS),
  capabilities: record(v.boolean()),
  parameters: record(v.unknown()),
});
export type JournalNote = v.InferOutput<typeof noteSchema>;

export class VmJournal {
  readonly #lockFd: number;
  readonly #noteFile: string;
  /** The VM's own, for as long as it is saved. */
  readonly directory: string;

  private constructor(directory: string, lockFd: number) {
    this.directory = directory;
    this.#lockFd = lockFd;
    this.#noteFile = path.join(directory, NOTE);
  }

  /** @throws VmckptError VM_BUSY when another vmckpt works on this VM */
  static open({ pid, startTicks }: ProcessIdentity): VmJournal {
    const name = `${pid}-${startTicks}`;
    // One that lies in another place is still to be put right.
    const former = findRuntimePath('saves', name);
    const directory = existsSync(former) ? former : ensureRuntimeDir('saves', name);
    const lockFile = path.join(directory, 'lock');
    const fd = openSync(lockFile, 'a+', 0o600);
    if (!tryLockFile(fd)) {
      const holder = readFileSync(lockFile, 'utf8').trim();
      closeSync(fd);
      throw busy(holder);
    }
    ftruncateSync(fd);
    writeSync(fd, `${process.pid}\n`);
    removeEnded();
    return new VmJournal(directory, fd);
  }

  /** What a process that died has left to be put right. */
  read(): JournalNote | undefined {
    return readJsonFile(noteSchema, this.#noteFile);
  }

  write(note: JournalNote): void {
    writeJsonFile(this.#noteFile, note);
    const fd = openSync(this.directory, 'r');
    fsyncSync(fd);
    closeSync(fd);
  }

  clear(): void {
    rmSync(this.#noteFile, { force: true });
  }

  /** Gives the lock back; the folder goes when nothing is left to be put right. */
  close(): void {
    if (this.read() === undefined) rmSync(this.directory, { recursive: true, force: true });
    closeSync(this.#lockFd);
  }
}

/** Of saves that died together with their VMs: there is nothing to be put right. */
function removeEnded(): void {
  for (const { vmAlive, directory } of listAbandonedSaves())
    if (!vmAlive) rmSync(directory, { recursive: true, force: true });
}

/** @param holder the number of the process that has the lock, as it has noted it */
function busy(holder: string): VmckptError {
  const message = `another vmckpt (process ${holder}) is saving this VM`;
  if (!isStopped(Number(holder)))
    return new VmckptError('VM_BUSY', message, { hint: 'Wait until it has finished.' });
  return new VmckptError('VM_BUSY', `${message}, but it is stopped, by a signal or a debugger`, {
    // A stopped process gets other signals when it goes on.
    hint: `Resume it: kill -CONT ${holder}. To end that save instead: kill ${holder}; kill -CONT ${holder}`,
  });
}

export interface AbandonedSave {
  /** Of QEMU. */
  readonly pid: number;
  readonly vmAlive: boolean;
  /** Whether settings of the VM are still to be put back. */
  readonly unsettled: boolean;
  /** The save had paused it, and it would run otherwise. */
  readonly isPaused: boolean;
  /** QEMU has something in the folder open, as far as this user may see that. */
  readonly hasDescriptor: boolean;
  readonly directory: string;
}

/** The saves whose vmckpt has died. */
export function listAbandonedSaves(): AbandonedSave[] {
  const saves = runtimeDirs().map((root) => path.join(root, 'saves'));
  const found = saves
    .filter(existsSync)
    .flatMap((folder) => readdirSync(folder).map((entry) => path.join(folder, entry)));
  return found.flatMap((directory) => {
    const [pid = NaN, startTicks = NaN] = path.basename(directory).split('-').map(Number);
    if (isHeld(path.join(directory, 'lock'))) return [];
    const note = readJsonFile(noteSchema, path.join(directory, NOTE));
    const unsettled = existsSync(path.join(directory, NOTE));
    const isPaused = note?.wasRunning === true && PAUSING.includes(note.method);
    const vmAlive = isAlive({ pid, startTicks });
    const hasDescriptor = vmAlive && hasOpen(pid, directory);
    return [{ pid, vmAlive, unsettled, isPaused, hasDescriptor, directory }];
  });
}

function hasOpen(pid: number, directory: string): boolean {
  try {
    const fds = `/proc/${pid}/fd`;
    return readdirSync(fds).some((fd) => readlinkSync(path.join(fds, fd)).startsWith(`${directory}/`));
  } catch {
    return false; // another user's, or it closes one at this moment
  }
}

function isHeld(lockFile: string): boolean {
  const fd = openIfThere(lockFile);
  if (fd === undefined) return false;
  try {
    return isFileLocked(fd);
  } finally {
    closeSync(fd);
  }
}

/** A save that ends removes it. */
function openIfThere(file: string): number | undefined {
  try {
    return openSync(file, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
