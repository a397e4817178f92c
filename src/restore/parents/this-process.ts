/**
 * A restore without a keeper. QEMU and its serving process are children of the verb, in sessions of their own. The verb
 * replaces a server that dies; after the verb has ended, `restore --resume` does.
 */
import { startDetached, type StartedProcess, type StartOptions } from '../../qemu/launch.js';
import type { ProcessParent, ServerStart } from './parent.js';
import { ServerClient } from '../server-client/client.js';
import type { ServedTransfer, TransferEnd } from '../server-client/handle.js';

/** The keeper has the same limit (kMaxRestartsInARow). */
export const MAX_TAKEOVERS = 20;

export class ThisProcess implements ProcessParent {
  readonly identity = undefined;
  readonly server: ServerClient;
  readonly #start: ServerStart;
  #served: ServedTransfer | undefined;

  constructor(start: ServerStart) {
    this.#start = start;
    this.server = ServerClient.start(start.folder, { name: start.folder.name, ...start });
  }

  keepServing(): ServedTransfer {
    const { folder, generation } = this.#start;
    this.#served = new Succession(this.server, () => ServerClient.takeOver(folder, generation));
    return this.#served;
  }

  startQemu(options: StartOptions): Promise<StartedProcess> {
    return startDetached(options);
  }

  async kill(): Promise<void> {
    this.server.kill();
    await this.server.close();
  }

  release(): void {
    (this.#served ?? this.server).release();
  }
}

/** One server after another: each starts when its predecessor has died without reporting why. */
class Succession implements ServedTransfer {
  readonly ended: Promise<TransferEnd>;
  takeoverCount = 0;
  onTakeover: () => void = () => undefined;
  readonly #takeOver: () => ServerClient;
  #current: ServerClient;
  #released = false;

  constructor(first: ServerClient, takeOver: () => ServerClient) {
    this.#current = first;
    this.#takeOver = takeOver;
    this.ended = this.#follow();
  }

  kill(): void {
    this.#current.kill();
  }

  release(): void {
    this.#released = true;
    this.#current.release();
  }

  async #follow(): Promise<TransferEnd> {
    for (;;) {
      const end = await this.#current.ended;
      if (end.type !== 'lost' || this.#released || this.takeoverCount === MAX_TAKEOVERS) return end;
      this.takeoverCount++;
      this.onTakeover();
      this.#current = this.#takeOver();
    }
  }
}
