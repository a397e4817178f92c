/**
 * A generation that comes from another store, with the number and the id that it has there. It arrives in a folder beside
 * the generations (`.incoming-N-ID`), which outlasts the process that fills it, so that a later one goes on where it
 * ended. A lock keeps two of them apart.
 */
import fs from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { DIRECTORY_MODE, errnoOf, fsyncPath, writeFailure } from '../checkpoint/files.js';
import { GENERATION_FILES } from '../checkpoint/format.js';
import { readManifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { LockFile, locked } from './lock-file.js';

const PREFIX = '.incoming-';
const LOCK_SUFFIX = '.lock';
/** What was not continued for so long is removed when another generation of the name arrives. */
const MAX_AGE_MS = 7 * 24 * 3600 * 1000;

/** What a generation is called, in every store that has it. */
export interface GenerationIdentity {
  readonly name: string;
  readonly number: number;
  /** The manifest's: 32 hexadecimal digits. */
  readonly id: string;
}

export interface IncomingOptions extends GenerationIdentity {
  readonly storeDir: string;
  /** Takes the lock on the name. Returns the function that releases it. */
  readonly lockName: () => Promise<() => Promise<void>>;
}

export class IncomingGeneration {
  /** Where its files arrive; gone after commit(). */
  readonly dir: string;
  /** Where it is after commit(). */
  readonly generationDir: string;
  readonly #options: IncomingOptions;
  #lock: LockFile | undefined;

  private constructor(options: IncomingOptions) {
    const { storeDir, name, number, id } = options;
    this.#options = options;
    this.generationDir = path.join(storeDir, name, String(number));
    this.dir = path.join(storeDir, name, `${PREFIX}${number}-${id}`);
  }

  /**
   * @throws VmckptError GENERATION_DIFFERS when another generation has the number; STORE_LOCKED while another process
   *   receives it; STORE_NOT_WRITABLE, NO_SPACE
   */
  static async begin(options: IncomingOptions): Promise<IncomingGeneration> {
    const incoming = new IncomingGeneration(options);
    if (incoming.isCommitted) return incoming;
    const nameDir = path.dirname(incoming.dir);
    try {
      await mkdir(nameDir, { recursive: true, mode: DIRECTORY_MODE });
      incoming.#lock = takeLock(incoming.dir, `${options.name}@${options.number} is being received`);
      await removeAbandoned(nameDir);
      await mkdir(incoming.dir, { recursive: true, mode: DIRECTORY_MODE });
    } catch (error) {
      incoming.close();
      throw writeFailure(error, nameDir);
    }
    return incoming;
  }

  /** Whether the store has it. @throws VmckptError GENERATION_DIFFERS */
  get isCommitted(): boolean {
    const { name, number, id } = this.#options;
    if (!fs.existsSync(path.join(this.generationDir, GENERATION_FILES.manifest))) return false;
    if (readManifest(this.generationDir).id === id) return true;
    throw new VmckptError('GENERATION_DIFFERS', `another generation is ${name}@${number} here`, {
      hint: 'Receive it under another name with pull --into, or remove the other one with vmckpt rm.',
    });
  }

  /**
   * Gives the folder its number, and makes that durable. Does nothing if that has happened.
   * @throws VmckptError INDEX_DAMAGED and others, as readManifest(), when a file is missing or has another length;
   *   GENERATION_DIFFERS, STORE_LOCKED, NO_SPACE, STORE_NOT_WRITABLE
   */
  async commit(): Promise<void> {
    if (this.isCommitted) return;
    const { id, name, number, storeDir, lockName } = this.#options;
    const manifest = readManifest(this.dir);
    if (manifest.id !== id)
      throw new VmckptError(
        'GENERATION_DIFFERS',
        `what arrived as ${name}@${number} is ${manifest.id}, not ${id}`,
      );
    const nameDir = path.dirname(this.dir);
    try {
      for (const file of await fs.promises.readdir(this.dir)) await fsyncPath(path.join(this.dir, file));
      await fsyncPath(this.dir);
      const unlock = await lockName();
      try {
        if (this.isCommitted) return;
        await rename(this.dir, this.generationDir);
        await fsyncPath(nameDir);
        await fsyncPath(storeDir);
      } finally {
        await unlock();
      }
    } catch (error) {
      throw writeFailure(error, nameDir);
    } finally {
      if (fs.existsSync(this.generationDir)) await rm(this.dir, { recursive: true, force: true });
    }
  }

  /** What has arrived stays for another attempt. A second call does nothing. */
  close(): void {
    this.#lock?.delete();
    this.#lock?.release();
    this.#lock = undefined;
  }
}

/** @param what completes "… by process 7" */
function takeLock(dir: string, what: string): LockFile {
  const file = `${dir}${LOCK_SUFFIX}`;
  const lock = LockFile.tryTake(file) ?? LockFile.tryTake(file);
  if (lock === undefined) throw locked(what, LockFile.holderOf(file) ?? 0);
  return lock;
}

/** Folders that no process fills any more. */
async function removeAbandoned(nameDir: string): Promise<void> {
  for (const entry of await fs.promises.readdir(nameDir)) {
    const dir = path.join(nameDir, entry);
    if (!entry.startsWith(PREFIX) || entry.endsWith(LOCK_SUFFIX) || !isOld(dir)) continue;
    if (LockFile.holderOf(`${dir}${LOCK_SUFFIX}`) === undefined)
      await rm(dir, { recursive: true, force: true });
  }
}

function isOld(dir: string): boolean {
  try {
    return Date.now() - fs.statSync(dir).mtimeMs > MAX_AGE_MS;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
}
