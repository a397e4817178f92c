/**
 * A generation of a checkpoint: what it is, what it holds, and how it is kept from being removed. Opening one reads
 * nothing; its manifest is read once, on first use.
 */
import { existsSync } from 'node:fs';
import { CheckpointReader } from '../checkpoint/reader.js';
import { Hints } from '../checkpoint/hints.js';
import type { Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { holdGeneration, holdGenerationFor, type GenerationUse } from './generation-use.js';
import type { Elsewhere, GenerationRef } from './generation-ref.js';
import { readSealedManifest, type SealedManifest, type SealVerdict } from './seal.js';

const PUT_BACK =
  'If it was moved, or a copy of it exists, put that in its place and try again. Otherwise the rest of the memory is lost: stop the VM, and restore another generation.';

export class Generation {
  /** The checkpoint's name. */
  readonly name: string;
  readonly number: number;
  readonly dir: string;
  /** Of one that arrives from other hosts. */
  readonly elsewhere: Elsewhere | undefined;
  /** Undefined: any generation at this place. */
  readonly #id: string | undefined;
  #sealed: SealedManifest | undefined;

  constructor({ name, number, dir, id, elsewhere }: GenerationRef) {
    this.name = name;
    this.number = number;
    this.dir = dir;
    this.elsewhere = elsewhere;
    this.#id = id;
  }

  /** NAME@NUMBER. */
  get reference(): string {
    return `${this.name}@${this.number}`;
  }

  /**
   * @throws VmckptError as readManifest(); NO_CHECKPOINT when it is gone, or another generation has taken the place
   * of the one referred to
   */
  get manifest(): Manifest {
    return this.#read().manifest;
  }

  /** @throws VmckptError as readManifest() */
  get ref(): GenerationRef {
    const { name, number, dir, manifest, elsewhere } = this;
    return { name, number, dir, id: manifest.id, ...(elsewhere && { elsewhere }) };
  }

  /** What restores of the generation have taught. @throws VmckptError as readManifest() */
  get hints(): Hints {
    return Hints.of(this.dir, this.manifest.id);
  }

  /** Whether vmckpt saved it for this user. @throws VmckptError as readManifest() */
  judgeSeal(): SealVerdict {
    return this.#read().judgeSeal();
  }

  /** @throws VmckptError as CheckpointReader.open() */
  openReader(): CheckpointReader {
    return CheckpointReader.of(this.dir, this.manifest);
  }

  /** Keeps it from being removed. @throws VmckptError as holdGeneration() */
  hold(): GenerationUse {
    return holdGeneration(this.dir);
  }

  /** The same, for work that only one process at a time may do. @throws VmckptError as holdGenerationFor() */
  holdFor(work: string): GenerationUse {
    return holdGenerationFor(work, this.dir);
  }

  #read(): SealedManifest {
    if (this.#sealed !== undefined) return this.#sealed;
    if (!existsSync(this.dir))
      throw new VmckptError('NO_CHECKPOINT', `${this.reference} is not there any more: ${this.dir} is gone`, {
        hint: PUT_BACK,
      });
    return (this.#sealed = this.#requireSame(readSealedManifest(this.dir)));
  }

  #requireSame(found: SealedManifest): SealedManifest {
    if (this.#id === undefined || found.manifest.id === this.#id) return found;
    throw new VmckptError(
      'NO_CHECKPOINT',
      `${this.dir} is another generation than the one that the VM was restored from`,
      { hint: PUT_BACK },
    );
  }
}
