/** A generation that arrives from elsewhere, for the process that serves a VM from it: there is a fetcher as long as this. */
import type { ArrivingGeneration } from '../page-server/fetcher/client.js';
import { cacheOfGeneration } from '../page-server/cache-layout.js';
import type { GenerationRef } from '../store/generation-ref.js';
import { log } from './log.js';

export class Fetching {
  readonly #arriving: Promise<ArrivingGeneration | undefined>;

  private constructor(arriving: Promise<ArrivingGeneration>) {
    this.#arriving = arriving.catch(noted);
    void arriving.then(({ lost }) => lost).catch(noted);
  }

  /** Does not wait for the fetcher: what is wanted before that stays in its FIFO. @returns undefined for a store here */
  static of({ name, number, dir, elsewhere }: GenerationRef): Fetching | undefined {
    if (elsewhere === undefined) return undefined;
    const options = {
      ...{ cacheDir: cacheOfGeneration(dir), dir, reference: `${name}@${number}` },
      sources: elsewhere.addresses,
      ...elsewhere,
    };
    // A VM whose checkpoint is on this host does not load it.
    const attached = import('../page-server/fetcher/client.js').then((client) =>
      client.ArrivingGeneration.attach(options),
    );
    return new Fetching(attached);
  }

  /** From here on the rest is fetched as well. */
  fill(): void {
    void this.#arriving.then((arriving) => arriving?.fill());
  }

  close(): void {
    void this.#arriving.then((arriving) => arriving?.close());
  }
}

/** The VM waits for what is not here: there is nothing else to be done about it. */
async function noted(error: unknown): Promise<undefined> {
  await log('error', { err: error }, 'nothing is fetched any more').catch(() => undefined);
  return undefined;
}
