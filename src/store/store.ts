/**
 * A directory of named checkpoints with numbered generations: DIR/NAME/GENERATION. A generation is immutable and
 * appears as a whole or not at all. Writers of one name exclude each other with DIR/NAME/lock; readers take no lock
 * and write nothing. Names in DIR/NAME that begin with "." are work in progress. See docs/format.md.
 */
import fs from 'node:fs';
import { mkdir, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { DIRECTORY_MODE, errnoOf, fsyncPath, writeFailure } from '../checkpoint/files.js';
import type { ListedFacts } from '../checkpoint/manifest-schema.js';
import { listedFacts } from '../checkpoint/manifest.js';
import { readSealedManifest, type SealVerdict } from './seal.js';
import { summarizeRawMemory, type RawMemorySummary } from '../checkpoint/raw-memory.js';
import { VmckptError, type ErrorCode } from '../errors.js';
import { kindOf } from '../util/regular-file.js';
import { Generation } from './generation.js';
import { clearStaleUses, staleUses, usersOf } from './generation-use.js';
import { IncomingGeneration, type GenerationIdentity } from './incoming-generation.js';
import { LockFile, locked } from './lock-file.js';
import { PendingGeneration } from './pending-generation.js';
import { isName, nearNames, parseGeneration, parseReference, requireName } from './reference.js';

export { Generation } from './generation.js';
export { PendingGeneration } from './pending-generation.js';

const LOCK = 'lock';
const PENDING = '.tmp-';
const TRASH = '.trash-';
/**
 * How many times a lock may vanish under us (because the last generation of its name was removed) before we give up.
 */
const LOCK_ATTEMPTS = 10;

export interface StoreOptions {
  /** Accept a store, or parts of one, that another user owns. */
  readonly trustForeign?: boolean;
}

export interface GenerationSummary {
  readonly name: string;
  readonly generation: number;
  /** The manifest's fields for a list; undefined when it is unreadable, and then `problem` gives the reason. */
  readonly facts: ListedFacts | undefined;
  readonly problem: { readonly code: ErrorCode; readonly message: string } | undefined;
  /** Undefined when the manifest cannot be read. */
  readonly seal: SealVerdict['status'] | undefined;
  readonly rawMemory: RawMemorySummary | null;
}

export class Store {
  readonly dir: string;
  readonly #trustForeign: boolean;

  private constructor(dir: string, { trustForeign = false }: StoreOptions) {
    this.dir = dir;
    this.#trustForeign = trustForeign;
  }

  /** @throws VmckptError NO_STORE, STORE_FOREIGN_OWNER, NOT_PERMITTED */
  static async open(dir: string, options: StoreOptions = {}): Promise<Store> {
    const store = new Store(path.resolve(dir), options);
    await store.#requireOwn(store.dir, () => {
      throw new VmckptError('NO_STORE', `there is no store at ${store.dir}`, {
        hint: 'The first vmckpt save creates it; --store DIR names another place.',
      });
    });
    return store;
  }

  /** @throws VmckptError STORE_NOT_WRITABLE and as open() */
  static async openOrCreate(dir: string, options: StoreOptions = {}): Promise<Store> {
    try {
      await mkdir(path.dirname(path.resolve(dir)), { recursive: true, mode: DIRECTORY_MODE });
      await ensureDirectory(dir);
    } catch (error) {
      throw writeFailure(error, `the store ${dir}`);
    }
    if (!(await isDirectory(dir)))
      throw new VmckptError(
        'NO_STORE',
        `${path.resolve(dir)} is in the way of the store: it is not a folder`,
        {
          hint: 'Name another place with --store DIR.',
        },
      );
    return Store.open(dir, options);
  }

  /** Every generation of every name, in order. Reads manifests only. */
  async list(): Promise<GenerationSummary[]> {
    const summaries: GenerationSummary[] = [];
    for (const name of await this.names())
      for (const generation of await this.generations(name))
        summaries.push(this.#summaryOf(name, generation));
    return summaries;
  }

  /** Directories of dead writers. The next writer of the name removes them. */
  async leftovers(): Promise<string[]> {
    const found: string[] = [];
    for (const name of entriesOf(this.dir).filter(isName).sort()) {
      const nameDir = path.join(this.dir, name);
      if (LockFile.holderOf(path.join(nameDir, LOCK)) !== undefined) continue;
      const unfinished = (entry: string) => entry.startsWith(PENDING) || entry.startsWith(TRASH);
      found.push(
        ...entriesOf(nameDir)
          .filter(unfinished)
          .map((entry) => path.join(nameDir, entry)),
      );
    }
    return found;
  }

  /** Files of uses whose processes have died. The next process to release a use of the name removes them. */
  async staleUses(): Promise<string[]> {
    const names = entriesOf(this.dir).filter(isName).sort();
    return names.flatMap((name) => staleUses(path.join(this.dir, name)));
  }

  /** The names that have a generation, in order. */
  async names(): Promise<string[]> {
    const names: string[] = [];
    for (const name of entriesOf(this.dir).filter(isName).sort())
      if ((await this.generations(name)).length > 0) names.push(name);
    return names;
  }

  /** The numbers of a name's generations, oldest first; none when there is no such name. */
  async generations(name: string): Promise<number[]> {
    requireName(name, 'a checkpoint');
    const entries = entriesOf(path.join(this.dir, name));
    return entries
      .map(parseGeneration)
      .filter((generation) => generation !== undefined)
      .sort((a, b) => a - b);
  }

  /**
   * Finds `NAME@GENERATION`, or the newest generation of `NAME`.
   * @throws VmckptError BAD_NAME, NO_CHECKPOINT, STORE_LOCKED while it is being written, GENERATION_INCOMPLETE when
   *   its writer died, NOT_A_FILE when it is a link or no folder, STORE_FOREIGN_OWNER, NOT_PERMITTED
   */
  async locate(reference: string): Promise<Generation> {
    const wanted = parseReference(reference);
    const { name } = wanted;
    const generations = await this.generations(name);
    const generation = wanted.generation ?? generations.at(-1);
    if (generation === undefined || !generations.includes(generation))
      throw (await this.#unfinished(name, generation)) ?? (await this.#missing(name, generation));
    const dir = path.join(this.dir, name, String(generation));
    const gone = async (): Promise<never> => {
      throw await this.#missing(name, generation);
    };
    await this.#requireOwn(path.dirname(dir), gone);
    requireNoLink(dir);
    await this.#requireOwn(dir, gone);
    return new Generation({ name, number: generation, dir });
  }

  /**
   * Begins the next generation of a name, or the one with this number, which the name must not have.
   * @throws VmckptError BAD_NAME, STORE_LOCKED, STORE_NOT_WRITABLE, NO_SPACE
   */
  async begin(name: string, number?: number): Promise<PendingGeneration> {
    requireName(name, 'a checkpoint');
    const nameDir = path.join(this.dir, name);
    try {
      const unlock = await this.#lock(name);
      try {
        const former = (await this.generations(name)).at(-1);
        const generation = number ?? (former ?? 0) + 1;
        const formerDir = former === undefined ? undefined : path.join(nameDir, String(former));
        const dir = path.join(nameDir, `${PENDING}${generation}-${process.pid}`);
        await mkdir(dir, { mode: DIRECTORY_MODE });
        return new PendingGeneration({ storeDir: this.dir, name, generation, dir, formerDir, unlock });
      } catch (error) {
        await unlock();
        throw error;
      }
    } catch (error) {
      throw writeFailure(error, nameDir);
    }
  }

  /**
   * Begins, or goes on with, a generation that comes from another store and keeps its number.
   * @throws VmckptError BAD_NAME, and as IncomingGeneration.begin()
   */
  async receive(generation: GenerationIdentity): Promise<IncomingGeneration> {
    requireName(generation.name, 'a checkpoint');
    const lockName = () => this.#lock(generation.name);
    return IncomingGeneration.begin({ ...generation, storeDir: this.dir, lockName });
  }

  /**
   * Removes the generation that `NAME@GENERATION` names.
   * @throws VmckptError USAGE when it names no generation, STORE_LOCKED while it is in use or its name is being
   *   written, and as locate()
   */
  async remove(reference: string): Promise<void> {
    if (parseReference(reference).generation === undefined)
      throw new VmckptError('USAGE', `"${reference}" names no generation`, {
        hint: `Name the generation to delete: ${reference}@GENERATION.`,
      });
    const { name, number: generation, dir } = await this.locate(reference);
    const nameDir = path.dirname(dir);
    const trash = path.join(nameDir, `${TRASH}${generation}-${process.pid}`);
    try {
      const unlock = await this.#lock(name);
      try {
        refuseUsed(nameDir, { name, generation });
        await rename(dir, trash);
        try {
          // Checked again: another process may have started to use it in between (see holdGeneration).
          refuseUsed(nameDir, { name, generation });
        } catch (error) {
          await rename(trash, dir);
          throw error;
        }
        await fsyncPath(nameDir);
        await rm(trash, { recursive: true });
      } finally {
        await unlock();
      }
    } catch (error) {
      throw writeFailure(error, nameDir);
    }
  }

  #summaryOf(name: string, generation: number): GenerationSummary {
    const dir = path.join(this.dir, name, String(generation));
    try {
      const { manifest, judgeSeal } = readSealedManifest(dir);
      const facts = listedFacts(manifest);
      const rawMemory = summarizeRawMemory(dir, manifest);
      return { name, generation, facts, problem: undefined, seal: judgeSeal().status, rawMemory };
    } catch (error) {
      if (!(error instanceof VmckptError)) throw error;
      const { code, message } = error;
      const problem = { code, message };
      return { name, generation, facts: undefined, problem, seal: undefined, rawMemory: null };
    }
  }

  /** Takes the name's lock and removes what dead writers left. Returns the function that releases the lock. */
  async #lock(name: string): Promise<() => Promise<void>> {
    const nameDir = path.join(this.dir, name);
    const lock = await this.#takeLock(name, path.join(nameDir, LOCK));
    const unlock = async (): Promise<void> => {
      const empty = (await readdir(nameDir)).every((entry) => entry === LOCK);
      if (empty) lock.delete();
      lock.release();
      // Rightly fails when another process has written something in the meantime.
      if (empty) await rmdir(nameDir).catch(() => undefined);
    };
    try {
      for (const entry of await readdir(nameDir))
        if (entry.startsWith(PENDING) || entry.startsWith(TRASH))
          await rm(path.join(nameDir, entry), { recursive: true, force: true });
      clearStaleUses(nameDir);
    } catch (error) {
      await unlock();
      throw error;
    }
    return unlock;
  }

  async #takeLock(name: string, file: string): Promise<LockFile> {
    for (let attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
      await ensureDirectory(path.dirname(file));
      try {
        const lock = LockFile.tryTake(file);
        if (lock !== undefined) return lock;
      } catch (error) {
        if (errnoOf(error) !== 'ENOENT') throw error;
      }
      const holder = LockFile.holderOf(file);
      if (holder !== undefined) throw locked(`"${name}" is being written`, holder);
    }
    throw locked(`"${name}" is being changed`, 0);
  }

  /** The error for a missing generation whose writer is at work, or has died. */
  async #unfinished(name: string, generation: number | undefined): Promise<VmckptError | undefined> {
    const nameDir = path.join(this.dir, name);
    const prefix = generation === undefined ? PENDING : `${PENDING}${generation}-`;
    const pending = entriesOf(nameDir).find((entry) => entry.startsWith(prefix));
    if (pending === undefined) return undefined;
    const label = `${name}@${pending.slice(PENDING.length).split('-')[0]}`;
    const holder = LockFile.holderOf(path.join(nameDir, LOCK));
    if (holder !== undefined) return locked(`${label} is being written`, holder);
    return new VmckptError('GENERATION_INCOMPLETE', `${label} was never finished: its writer died`, {
      hint: `Save again: the next save of "${name}" removes it.`,
    });
  }

  async #missing(name: string, generation: number | undefined): Promise<VmckptError> {
    const generations = await this.generations(name);
    if (generations.length > 0)
      return new VmckptError('NO_CHECKPOINT', `"${name}" has no generation ${generation}`, {
        hint: `Its generations: ${generations.join(', ')}`,
      });
    const near = nearNames(name, await this.names());
    return new VmckptError('NO_CHECKPOINT', `there is no checkpoint "${name}" in ${this.dir}`, {
      hint: near.length > 0 ? `Did you mean ${near.join(', ')}?` : 'vmckpt list shows all checkpoints.',
    });
  }

  /** Requires a directory of this user, unless others are trusted. `onMissing` throws when it does not exist. */
  async #requireOwn(dir: string, onMissing: () => never | Promise<never>): Promise<void> {
    let found: fs.Stats;
    try {
      found = fs.statSync(dir);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'ENOENT' || errno === 'ENOTDIR') return onMissing();
      throw notPermitted(error, dir);
    }
    if (!found.isDirectory()) return onMissing();
    const user = process.getuid?.();
    if (this.#trustForeign || found.uid === user) return;
    throw new VmckptError(
      'STORE_FOREIGN_OWNER',
      `${dir} belongs to user ${found.uid}, this is user ${user}`,
      {
        hint: 'A malicious checkpoint can attack the user who restores it. If you trust its owner, pass --trust-command-line.',
      },
    );
  }
}

function refuseUsed(nameDir: string, { name, generation }: { name: string; generation: number }): void {
  const [pid] = usersOf(nameDir, generation);
  if (pid !== undefined) throw locked(`${name}@${generation} is in use`, pid);
}

/**
 * A store and a name may be symbolic links; a generation may not, because `rm` would leave its memory where it is.
 * @throws VmckptError NOT_A_FILE
 */
function requireNoLink(dir: string): void {
  const found = lstatOf(dir);
  if (found === undefined || found.isDirectory()) return;
  throw new VmckptError('NOT_A_FILE', `${dir} is ${kindOf(found)}, expected a folder`, {
    hint: 'vmckpt did not make it. Remove it by hand, or name another generation.',
  });
}

/** Undefined where it cannot be told: what is read next tells why. */
function lstatOf(dir: string): fs.Stats | undefined {
  try {
    return fs.lstatSync(dir);
  } catch {
    return undefined;
  }
}

/** Not recursive, because that reports a read-only file system as a missing parent. */
async function ensureDirectory(dir: string): Promise<void> {
  try {
    await mkdir(dir, { mode: DIRECTORY_MODE });
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

/** False for a broken link. */
async function isDirectory(dir: string): Promise<boolean> {
  const found = await stat(dir).catch(() => undefined);
  return found?.isDirectory() ?? false;
}

/**
 * A directory's entries; none when it does not exist. Synchronous, like everything that locates a generation: a VM that is
 * down waits for it, and the first operation of fs/promises takes longer than the whole search.
 */
function entriesOf(dir: string): string[] {
  try {
    return fs.readdirSync(dir);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR' || errno === 'ELOOP') return [];
    throw notPermitted(error, dir);
  }
}

function notPermitted(error: unknown, dir: string): unknown {
  const errno = errnoOf(error);
  if (errno !== 'EACCES' && errno !== 'EPERM') return error;
  return new VmckptError('NOT_PERMITTED', `${dir} may not be read by this user`, { cause: error });
}
