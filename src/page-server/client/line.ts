/** A line to a page server: a connection that is made when it is needed, and again when it was lost. */
import type { Connection } from './connection.js';

export class Line {
  readonly #connect: () => Promise<Connection>;
  #made: Connection | undefined;
  #making: Promise<Connection> | undefined;
  #isClosed = false;

  constructor(connect: () => Promise<Connection>) {
    this.#connect = connect;
  }

  /** @throws VmckptError SOURCE_UNAVAILABLE and what connecting throws: the next call tries again */
  ready(): Promise<Connection> {
    if (this.#made?.isOpen === true) return Promise.resolve(this.#made);
    return (this.#making ??= this.#make());
  }

  /** Fails what is under way. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#making?.catch(() => undefined);
    this.#made?.close();
  }

  async #make(): Promise<Connection> {
    try {
      this.#made = await this.#connect();
      if (this.#isClosed) this.#made.close();
      return this.#made;
    } finally {
      this.#making = undefined;
    }
  }
}
