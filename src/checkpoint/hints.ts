/**
 * Where the hints about a generation lie: files that are learnt from its restores and may be missing. They lie beside its
 * own files. Where this user may not write there (another user's store, a read-only file system) they go to the user's
 * state folder, by the generation's id, and what lies beside it is still read.
 */
import fs from 'node:fs';
import path from 'node:path';
import { stateDir } from '../util/user-folders.js';
import { DIRECTORY_MODE } from './files.js';

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
    return new Hints(generationDir, isOwn ? undefined : path.join(stateDir(), 'hints', id));
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
    fs.mkdirSync(this.#ownDir, { recursive: true, mode: DIRECTORY_MODE });
    return path.join(this.#ownDir, name);
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
