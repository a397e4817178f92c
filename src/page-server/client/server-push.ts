/** A push to a page server, on one connection. When that is lost, another push continues where it ended. */
import type { Push, PushedGeneration } from '../contracts.js';
import { MAX_PIECE_BYTES } from '../wire/limits.js';
import type { Connection } from './connection.js';

export class ServerPush implements Push {
  readonly isCommitted: boolean;
  readonly #connection: Connection;
  readonly #handle: number;

  private constructor(connection: Connection, handle: number, isCommitted: boolean) {
    this.#connection = connection;
    this.#handle = handle;
    this.isCommitted = isCommitted;
  }

  /** @throws VmckptError as RemoteStore.push() */
  static async begin(connection: Connection, generation: PushedGeneration): Promise<ServerPush> {
    const { name, number, id } = generation;
    const { handle, isCommitted } = await connection.request('push', { name, number, id });
    return new ServerPush(connection, handle, isCommitted);
  }

  async receivedBytes(file: string): Promise<number> {
    return (await this.#connection.request('received', { handle: this.#handle, file })).bytes;
  }

  /** Sends piece after piece without waiting in between. */
  async put(file: string, offset: number, bytes: Uint8Array): Promise<void> {
    const handle = this.#handle;
    const put: Promise<unknown>[] = [];
    for (let from = 0; from === 0 || from < bytes.length; from += MAX_PIECE_BYTES) {
      const piece = {
        handle,
        file,
        offset: offset + from,
        bytes: bytes.subarray(from, from + MAX_PIECE_BYTES),
      };
      put.push(this.#connection.request('put', piece));
    }
    await Promise.all(put);
  }

  async commit(): Promise<void> {
    await this.#connection.request('commit', { handle: this.#handle });
  }

  async close(): Promise<void> {
    if (this.#connection.isOpen)
      await this.#connection.request('close', { handle: this.#handle }).catch(() => undefined);
  }
}
