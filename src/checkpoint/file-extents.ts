/** The extents of a local generation: one at a time on this thread, many of them beside it. */
import type { DecodedExtents, ExtentSource } from '../pages/contracts.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { DecodeFault, DecodeRequest, DecodeWorkerData } from './decode-worker.js';
import { extentDamaged, type PagesReader } from './pages-reader.js';
import type { WorkerTeam } from './worker-team.js';

const THREADS = 2;
/** Bounds the memory of one request: 64 MiB at 8 pages an extent. */
const MAX_REQUEST_EXTENTS = 2048;
/** Buffers come in sizes that are powers of two, so that they fit again. */
const MIN_BUFFER_BYTES = 256 * 1024;
const MAX_FREE_BUFFERS = 8;
/** So many are decoded before threads are started, which takes longer than that: a VM on the direct path needs no more. */
const INLINE_EXTENTS = 128;

type DecodeTeam = WorkerTeam<DecodeRequest, DecodeFault | undefined>;

export class FileExtents implements ExtentSource {
  readonly #reader: PagesReader;
  readonly #extentBytes: number;
  #inlineCount = 0;
  /** Loaded and started when there is enough to do: until then the processors have better things to do. */
  #team: Promise<DecodeTeam> | undefined;
  readonly #free: Uint8Array[] = [];

  /** The reader must stay open until this is closed. */
  constructor(reader: PagesReader) {
    this.#reader = reader;
    this.#extentBytes = reader.extentPages * PAGE_BYTES;
  }

  readNow(extent: number, into: Uint8Array): number {
    return this.#reader.readExtent(extent, into);
  }

  /** The system reads ahead by itself. */
  willNeed(): void {}

  /**
   * Decodes up to MAX_REQUEST_EXTENTS extents; neighbours in the file are read together.
   * @throws VmckptError EXTENT_DAMAGED for the first damaged one, INDEX_DAMAGED
   */
  async read(numbers: readonly number[], signal?: AbortSignal): Promise<DecodedExtents> {
    signal?.throwIfAborted();
    if (numbers.length > MAX_REQUEST_EXTENTS)
      throw new RangeError(
        `${numbers.length} extents in one request, at most ${MAX_REQUEST_EXTENTS} allowed`,
      );
    this.#inlineCount += numbers.length;
    if (this.#inlineCount <= INLINE_EXTENTS) return this.#readInline(numbers);
    const extents = numbers.map((extent) => this.#reader.extentInfo(extent));
    const into = this.#takeBuffer(extents.length * this.#extentBytes);
    let released = false;
    const release = (): void => {
      if (!released && this.#free.length < MAX_FREE_BUFFERS) this.#free.push(into);
      released = true;
    };
    const found = extents.length === 0 ? undefined : await (await this.#startedTeam()).run({ extents, into });
    if (found !== undefined) {
      release();
      const { position, fault } = found;
      throw extentDamaged(this.#reader.label, { info: extents[position]!, fault });
    }
    const bytesAt = (position: number): Uint8Array => {
      const start = position * this.#extentBytes;
      return into.subarray(start, start + extents[position]!.pageCount * PAGE_BYTES);
    };
    return { bytesAt, release };
  }

  /** Ends the threads once they have decoded what they were asked for. */
  async close(): Promise<void> {
    await (await this.#team)?.close();
  }

  /** For so few that starting threads would take longer. */
  #readInline(numbers: readonly number[]): DecodedExtents {
    const decoded = numbers.map((extent) => {
      const bytes = new Uint8Array(this.#extentBytes);
      return bytes.subarray(0, this.#reader.readExtent(extent, bytes) * PAGE_BYTES);
    });
    return { bytesAt: (position) => decoded[position]!, release: () => undefined };
  }

  #startedTeam(): Promise<DecodeTeam> {
    return (this.#team ??= this.#startTeam());
  }

  async #startTeam(): Promise<DecodeTeam> {
    const { WorkerTeam } = await import('./worker-team.js');
    const workerData: DecodeWorkerData = { extentBytes: this.#extentBytes };
    return new WorkerTeam('checkpoint/decode-worker.js', { threads: THREADS, workerData });
  }

  #takeBuffer(bytes: number): Uint8Array {
    let size = MIN_BUFFER_BYTES;
    while (size < bytes) size *= 2;
    const index = this.#free.findIndex((buffer) => buffer.length === size);
    return this.#free.splice(index, index < 0 ? 0 : 1)[0] ?? new Uint8Array(new SharedArrayBuffer(size));
  }
}
