/**
 * A generation of a checkpoint, wherever it is used: what it is, what it holds, and how it is kept from being removed.
 * Opening one reads nothing; its manifest is read once, when it is first asked for.
 */
import * as v from 'valibot';
import { CheckpointReader } from '../checkpoint/reader.js';
import { Hints } from '../checkpoint/hints.js';
import type { Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { integer } from '../util/schema.js';
import { holdGeneration, holdGenerationFor, type GenerationUse } from './generation-use.js';
import { readSealedManifest, type SealedManifest, type SealVerdict } from './seal.js';

/** Names a generation for another process, or for later: plain JSON. */
export const generationRefSchema = v.object({
  name: v.string(),
  number: integer,
  dir: v.string(),
  /** The manifest's. Missing in records that an earlier version has written. */
  id: v.optional(v.string()),
});
export type GenerationRef = Readonly<v.InferOutput<typeof generationRefSchema>>;

export class Generation {
  /** Of the checkpoint. */
  readonly name: string;
  readonly number: number;
  readonly dir: string;
  #sealed: SealedManifest | undefined;

  constructor({ name, number, dir }: Pick<GenerationRef, 'name' | 'number' | 'dir'>) {
    this.name = name;
    this.number = number;
    this.dir = dir;
  }

  /**
   * The generation that was referred to.
   * @throws VmckptError NO_CHECKPOINT when another one has taken its place; as `manifest` does
   */
  static at(ref: GenerationRef): Generation {
    const generation = new Generation(ref);
    if (ref.id !== undefined && generation.manifest.id !== ref.id)
      throw new VmckptError(
        'NO_CHECKPOINT',
        `${generation.reference} is not the generation that the VM was restored from: another one has taken its place`,
        { hint: 'The memory of the VM cannot be completed: stop it, and restore it again.' },
      );
    return generation;
  }

  /** NAME@NUMBER. */
  get reference(): string {
    return `${this.name}@${this.number}`;
  }

  /** @throws VmckptError as readManifest() */
  get manifest(): Manifest {
    return this.#read().manifest;
  }

  /** @throws VmckptError as readManifest() */
  get ref(): GenerationRef {
    const { name, number, dir, manifest } = this;
    return { name, number, dir, id: manifest.id };
  }

  /** What its restores have taught. @throws VmckptError as readManifest() */
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

  /** The same for work that one process at a time may do. @throws VmckptError as holdGenerationFor() */
  holdFor(work: string): GenerationUse {
    return holdGenerationFor(work, this.dir);
  }

  #read(): SealedManifest {
    return (this.#sealed ??= readSealedManifest(this.dir));
  }
}
