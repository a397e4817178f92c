/**
 * A generation that is being written: a temporary directory that gets its number when it is complete. A crash leaves
 * the temporary directory, which the next writer of the name removes.
 */
import { rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { fsyncPath, writeFailure } from '../checkpoint/files.js';
import type { Chain } from '../checkpoint/writer.js';

export interface PendingOptions {
  readonly storeDir: string;
  readonly name: string;
  readonly generation: number;
  /** The temporary directory. */
  readonly dir: string;
  /** Of the previous generation, if there is one. */
  readonly formerDir: string | undefined;
  /** Releases the lock on the name. */
  readonly unlock: () => Promise<void>;
}

export interface CommitOptions {
  readonly signal?: AbortSignal;
  /** Called when the signal is no longer obeyed. */
  readonly onCommit?: (() => void) | undefined;
}

export class PendingGeneration {
  readonly name: string;
  readonly generation: number;
  /** Where to write; empty at first, and gone after commit() or abort(). */
  readonly dir: string;
  /** Of the previous generation, if there is one. */
  readonly formerDir: string | undefined;
  readonly #options: PendingOptions;
  #settled = false;

  constructor(options: PendingOptions) {
    this.name = options.name;
    this.generation = options.generation;
    this.dir = options.dir;
    this.formerDir = options.formerDir;
    this.#options = options;
  }

  /** What a writer needs to share with the generation before what has not changed. */
  get chain(): Chain {
    return { formerDir: this.formerDir };
  }

  /**
   * Gives the directory its number and makes that durable. Its contents must already be fsynced.
   * @returns the generation's directory
   * @throws VmckptError NO_SPACE, STORE_NOT_WRITABLE, FAILED, or the signal's reason; call abort() then
   */
  async commit({ signal, onCommit }: CommitOptions = {}): Promise<string> {
    signal?.throwIfAborted();
    onCommit?.();
    const { generation, storeDir, unlock } = this.#options;
    const nameDir = path.dirname(this.dir);
    const generationDir = path.join(nameDir, String(generation));
    try {
      await rename(this.dir, generationDir);
      await fsyncPath(nameDir);
      await fsyncPath(storeDir);
    } catch (error) {
      throw writeFailure(error, nameDir);
    }
    this.#settled = true;
    await unlock();
    return generationDir;
  }

  /** Removes what was written. Does nothing after commit(). */
  async abort(): Promise<void> {
    if (this.#settled) return;
    this.#settled = true;
    await rm(this.dir, { recursive: true, force: true });
    await this.#options.unlock();
  }
}
