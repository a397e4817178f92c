/**
 * Where the hints about a generation lie: files that are learnt from its restores and may be missing. They lie beside its
 * own files. Where this user may not write there (another user's store, a read-only file system) they go to the user's
 * state folder, by the checkpoint's name and the generation's id, and what lies beside it is still read. A link in that
 * folder leads to the generation. When a generation gets its first hint there, those of removed ones go: of its own store at
 * once, of other stores, which may not be mounted, when they have not changed for some months.
 */
import fs from 'node:fs';
import path from 'node:path';
import { stateDir } from '../util/user-folders.js';
import { DIRECTORY_MODE } from './files.js';
import { readManifest } from './manifest.js';

/** In a folder of hints: where their generation is. */
const GENERATION_LINK = 'generation';
/** More folders are not looked at. */
const MAX_FOLDERS = 1024;
const UNUSED_MS = 90 * 24 * 3_600_000;

export class Hints {
  readonly #generationDir: string;
  /** Undefined where hints are written beside the generation. */
  readonly #ownDir: string | undefined;

  private constructor(generationDir: string, ownDir?: string) {
    this.#generationDir = generationDir;
    this.#ownDir = ownDir;
  }

  /** @param id the manifest's */
  static of(generationDir: string, id: string): Hints {
    const isOwn = mayWrite(generationDir);
    const name = path.basename(path.dirname(path.resolve(generationDir)));
    return new Hints(generationDir, isOwn ? undefined : path.join(stateDir(), 'hints', name, id));
  }

  /** Of a generation that this user writes. */
  static beside(generationDir: string): Hints {
    return new Hints(generationDir);
  }

  /** Whether they take no room but the generation's own. */
  get areBeside(): boolean {
    return this.#ownDir === undefined;
  }

  /** The path to read a hint from; it may be missing. */
  find(name: string): string {
    const own = this.#ownDir && path.join(this.#ownDir, name);
    return own !== undefined && fs.existsSync(own) ? own : path.join(this.#generationDir, name);
  }

  /** The path to write a hint to, in a folder that exists. @throws system errors */
  place(name: string): string {
    if (this.#ownDir === undefined) return path.join(this.#generationDir, name);
    if (fs.mkdirSync(this.#ownDir, { recursive: true, mode: DIRECTORY_MODE }) !== undefined) {
      const generationDir = path.resolve(this.#generationDir);
      fs.symlinkSync(generationDir, path.join(this.#ownDir, GENERATION_LINK));
      clearRemoved(this.#ownDir, generationDir);
    }
    return path.join(this.#ownDir, name);
  }
}

/** Besides the hints in `ownDir`, which are about `generationDir`. */
function clearRemoved(ownDir: string, generationDir: string): void {
  const root = path.dirname(path.dirname(ownDir));
  const storeOf = (generation: string) => path.dirname(path.dirname(generation));
  const names = fs.readdirSync(root).map((name) => path.join(root, name));
  const all = names.flatMap((name) => fs.readdirSync(name).map((id) => path.join(name, id)));
  for (const dir of all.slice(0, MAX_FOLDERS)) {
    const about = generationOf(dir);
    if (dir === ownDir || about === undefined || isThere(about, path.basename(dir))) continue;
    if (storeOf(about) !== storeOf(generationDir) && !isUnused(dir)) continue;
    fs.rmSync(dir, { recursive: true, force: true });
    removeIfEmpty(path.dirname(dir));
  }
}

/** Hints are replaced by new files. */
function isUnused(dir: string): boolean {
  return Date.now() - fs.statSync(dir).mtimeMs > UNUSED_MS;
}

function removeIfEmpty(dir: string): void {
  if (fs.readdirSync(dir).length === 0) fs.rmdirSync(dir);
}

/** Undefined where there is no link. */
function generationOf(dir: string): string | undefined {
  try {
    return fs.readlinkSync(path.join(dir, GENERATION_LINK));
  } catch {
    return undefined;
  }
}

/** A later generation may have got the number of a removed one. One that cannot be read is taken to be there. */
function isThere(generationDir: string, id: string): boolean {
  if (!fs.existsSync(generationDir)) return false;
  try {
    return readManifest(generationDir).id === id;
  } catch {
    return true;
  }
}

function mayWrite(dir: string): boolean {
  try {
    fs.accessSync(dir, fs.constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
