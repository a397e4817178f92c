/** The sources of one generation: those that have opened it, and those that have another one under its name. */
import { VmckptError } from '../../errors.js';
import type { OpenedGeneration } from '../contracts.js';
import type { Source } from './source.js';

export class OpenedSources {
  /** With all of those that were named. */
  readonly sources: readonly Source[];
  readonly #reference: string;
  readonly #opened = new Map<Source, OpenedGeneration>();
  readonly #refused = new Map<Source, string>();
  /** What all of them must have. */
  #manifest: Buffer | undefined;

  /** @param reference the same for all. @param manifest if it is known already */
  constructor(sources: readonly Source[], reference: string, manifest?: Buffer) {
    this.sources = sources;
    this.#reference = reference;
    this.#manifest = manifest;
  }

  /** Those that can be asked. */
  get opened(): ReadonlyMap<Source, OpenedGeneration> {
    return this.#opened;
  }

  get manifest(): Buffer | undefined {
    return this.#manifest;
  }

  /** Why a source is not asked, although it may be here. */
  refusalOf(source: Source): string | undefined {
    return this.#refused.get(source);
  }

  /**
   * Opens it at those that have not yet. The first answer says what the generation is.
   * @returns why not all of them have it
   */
  async open(): Promise<VmckptError[]> {
    const failures: VmckptError[] = [];
    const isNew = (source: Source) => !this.#opened.has(source) && !this.#refused.has(source);
    const open = async (source: Source): Promise<void> => {
      try {
        await this.#add(source, await source.open(this.#reference));
      } catch (error) {
        if (!(error instanceof VmckptError)) throw error;
        if (error.code !== 'SOURCE_UNAVAILABLE') this.#refused.set(source, error.message);
        failures.push(error);
      }
    };
    await Promise.all(this.sources.filter(isNew).map(open));
    return failures;
  }

  async close(): Promise<void> {
    await Promise.allSettled([...this.#opened.values()].map((generation) => generation.close()));
  }

  async #add(source: Source, generation: OpenedGeneration): Promise<void> {
    const manifest = Buffer.from(generation.manifest);
    this.#manifest ??= manifest;
    if (this.#manifest.equals(manifest)) {
      this.#opened.set(source, generation);
      return;
    }
    await generation.close();
    throw new VmckptError(
      'GENERATION_DIFFERS',
      `${source.label} has another generation as ${generation.name}@${generation.number}`,
      { hint: 'It is not a replica of the other sources. Leave it out.' },
    );
  }
}
