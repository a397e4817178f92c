/** A generation that is open behind a page server, on each connection that has been used for it. */
import { checksumText } from '../../checkpoint/format.js';
import { VmckptError } from '../../errors.js';
import { xxh3 } from '../../native/index.js';
import {
  MAX_RANGE_BYTES,
  MAX_WHOLE_BYTES,
  MAX_WRITTEN_HINT_BYTES,
  type Lane,
  type OpenedGeneration,
  type Range,
  type ReadOptions,
  type SmallFile,
  type WrittenHint,
} from '../contracts.js';
import type { ResultOf } from '../wire/messages.js';
import { ByteSink } from './byte-sink.js';
import type { Connection } from './connection.js';

interface OpenedOptions {
  readonly openedOn: Connection;
  readonly ready: (lane: Lane) => Promise<Connection>;
  readonly onClose: () => void;
}

export class OpenedOnServer implements OpenedGeneration {
  readonly name: string;
  readonly number: number;
  readonly manifest: Uint8Array;
  readonly #files: Map<SmallFile, number>;
  readonly #options: OpenedOptions;
  readonly #handles = new Map<Connection, Promise<number>>();

  constructor(
    { name, number, handle, manifest, files }: ResultOf<'open'> & { readonly manifest: Uint8Array },
    options: OpenedOptions,
  ) {
    this.name = name;
    this.number = number;
    this.manifest = manifest;
    this.#files = new Map(files.map(({ file, bytes }) => [file, bytes]));
    this.#options = options;
    this.#handles.set(options.openedOn, Promise.resolve(handle));
  }

  get files(): ReadonlyMap<SmallFile, number> {
    return this.#files;
  }

  /** Does nothing when it is open there. A generation that is gone by now is noticed by who reads it. */
  async reopen(connection: Connection): Promise<void> {
    await this.#handleOn(connection).catch((error: unknown) => {
      if (!(error instanceof VmckptError) || error.code === 'SOURCE_UNAVAILABLE') throw error;
    });
  }

  async readFile(
    file: SmallFile,
    range?: Range,
    { lane = 'demand', signal }: Partial<ReadOptions> = {},
  ): Promise<Uint8Array | undefined> {
    const wholeBytes = this.#files.get(file);
    if (wholeBytes === undefined) return undefined;
    if (wholeBytes > MAX_WHOLE_BYTES && range === undefined)
      throw new VmckptError('FAILED', `${wholeBytes} bytes of ${file} are too many at once`);
    const { offset, length } = range ?? { offset: 0, length: wholeBytes };
    const connection = await this.#options.ready(lane);
    const handle = await this.#handleOn(connection);
    const sink = new ByteSink(length);
    for (let done = 0; done < length; done += MAX_RANGE_BYTES) {
      const piece = { offset: offset + done, length: Math.min(MAX_RANGE_BYTES, length - done) };
      const body = { handle, file, lane, ...piece };
      await connection.request('readFile', body, { lane, signal, onBytes: sink.take });
    }
    return sink.bytes();
  }

  async writeHint(file: WrittenHint, bytes: Uint8Array): Promise<void> {
    if (bytes.length > MAX_WRITTEN_HINT_BYTES)
      throw new VmckptError(
        'FAILED',
        `${file} has ${bytes.length} bytes, at most ${MAX_WRITTEN_HINT_BYTES} are sent to a page server`,
      );
    const connection = await this.#options.ready('rest');
    const handle = await this.#handleOn(connection);
    await connection.request('writeHint', { handle, file, offset: 0, bytes });
    this.#files.set(file, bytes.length);
  }

  async close(): Promise<void> {
    this.#options.onClose();
    const handles = [...this.#handles];
    this.#handles.clear();
    for (const [connection, handle] of handles)
      try {
        if (connection.isOpen) await connection.request('close', { handle: await handle });
      } catch {
        // A lost connection has closed it.
      }
  }

  #handleOn(connection: Connection): Promise<number> {
    let handle = this.#handles.get(connection);
    if (handle === undefined) {
      for (const known of this.#handles.keys()) if (!known.isOpen) this.#handles.delete(known);
      handle = this.#openOn(connection);
      this.#handles.set(connection, handle);
    }
    return handle;
  }

  async #openOn(connection: Connection): Promise<number> {
    const reference = `${this.name}@${this.number}`;
    const manifestXxh3 = checksumText(xxh3(this.manifest));
    const none = new ByteSink(0);
    const { handle } = await connection.request('open', { reference, manifestXxh3 }, { onBytes: none.take });
    return handle;
  }
}
