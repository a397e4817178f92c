/** The generations and pushes that a client has open, by the numbers that it names them with. */
import { VmckptError } from '../../errors.js';
import type { Access } from '../access.js';
import type { OpenedGeneration, Push } from '../contracts.js';
import { MAX_HANDLES } from '../wire/limits.js';

interface Named {
  /** Of the checkpoint. */
  readonly name: string;
}
type Held = Named &
  (
    | { readonly opened: OpenedGeneration; readonly push?: never }
    | { readonly push: Push; readonly opened?: never }
  );

export class Handles {
  readonly #held = new Map<number, Held>();
  #last = 0;

  /** @throws VmckptError FAILED when the client has too many open */
  requireRoom(): void {
    if (this.#held.size >= MAX_HANDLES)
      throw new VmckptError('FAILED', `at most ${MAX_HANDLES} generations may be open on a connection`);
  }

  /** @returns its number, which is never given again */
  add(held: Held): number {
    this.#held.set(++this.#last, held);
    return this.#last;
  }

  /** Whether each of them is still permitted. */
  arePermitted(access: Access): boolean {
    return [...this.#held.values()].every(({ name, push }) =>
      access(push === undefined ? 'read' : 'push', name),
    );
  }

  /** @throws VmckptError FAILED */
  opened(handle: number): OpenedGeneration {
    return this.#held.get(handle)?.opened ?? unknown(handle);
  }

  /** @throws VmckptError FAILED */
  push(handle: number): Push {
    return this.#held.get(handle)?.push ?? unknown(handle);
  }

  /** Does nothing for a number that is not known. */
  async close(handle: number): Promise<void> {
    const held = this.#held.get(handle);
    this.#held.delete(handle);
    await (held?.opened ?? held?.push)?.close();
  }
}

function unknown(handle: number): never {
  throw new VmckptError('FAILED', `nothing with the number ${handle} is open`);
}
