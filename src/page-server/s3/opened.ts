/** A generation in a bucket. Nothing holds it there: what is removed stays readable until it is pruned, a day by default. */
import { GENERATION_FILES } from '../../checkpoint/format.js';
import type { Format2Manifest } from '../../checkpoint/manifest.js';
import { VmckptError } from '../../errors.js';
import {
  MAX_WHOLE_BYTES,
  MAX_WRITTEN_HINT_BYTES,
  SMALL_FILES,
  type OpenedGeneration,
  type PushedGeneration,
  type Range,
  type ReadOptions,
  type SmallFile,
  type WrittenHint,
} from '../contracts.js';
import type { Bucket } from './bucket.js';
import { filesOf } from './keys.js';

export interface S3GenerationOptions extends PushedGeneration {
  readonly bucket: Bucket;
  readonly encoded: Buffer;
  readonly manifest: Format2Manifest;
  readonly onClose: (closed: S3Generation) => void;
}

export class S3Generation implements OpenedGeneration {
  readonly name: string;
  readonly number: number;
  readonly manifest: Uint8Array;
  readonly files: ReadonlyMap<SmallFile, number>;
  readonly packIds: ReadonlySet<string>;
  readonly #options: S3GenerationOptions;

  private constructor(options: S3GenerationOptions, files: Map<SmallFile, number>) {
    this.name = options.name;
    this.number = options.number;
    this.manifest = options.encoded;
    this.files = files;
    this.packIds = new Set(options.manifest.packs.map(({ id }) => id));
    this.#options = options;
  }

  static async open(options: S3GenerationOptions): Promise<S3Generation> {
    const folder = filesOf(options);
    const found = await options.bucket.list(folder);
    const lengths = new Map(found.map(({ key, bytes }) => [key.slice(folder.length), bytes]));
    lengths.set(GENERATION_FILES.manifest, options.encoded.length);
    const files = SMALL_FILES.flatMap((file) => {
      const bytes = lengths.get(file);
      return bytes === undefined ? [] : [[file, bytes] as const];
    });
    return new S3Generation(options, new Map(files));
  }

  async readFile(
    file: SmallFile,
    range?: Range,
    { signal }: Partial<ReadOptions> = {},
  ): Promise<Uint8Array | undefined> {
    signal?.throwIfAborted();
    if (file === GENERATION_FILES.manifest) return cut(this.#options.encoded, range);
    const bytes = this.files.get(file) ?? 0;
    if (range === undefined && bytes > MAX_WHOLE_BYTES)
      throw new VmckptError(
        'FAILED',
        `${file} of ${this.name}@${this.number} has ${bytes} bytes, too many at once`,
      );
    if (range?.length === 0) return this.files.has(file) ? Buffer.alloc(0) : undefined;
    return this.#options.bucket.read(this.#keyOf(file), range, signal);
  }

  async writeHint(file: WrittenHint, bytes: Uint8Array): Promise<void> {
    if (bytes.length > MAX_WRITTEN_HINT_BYTES)
      throw new VmckptError(
        'FAILED',
        `${file} has ${bytes.length} bytes, at most ${MAX_WRITTEN_HINT_BYTES} are written`,
      );
    await this.#options.bucket.write(this.#keyOf(file), bytes);
  }

  async close(): Promise<void> {
    this.#options.onClose(this);
  }

  #keyOf(file: SmallFile): string {
    return `${filesOf(this.#options)}${file}`;
  }
}

function cut(bytes: Buffer, range: Range | undefined): Buffer {
  return range === undefined ? bytes : bytes.subarray(range.offset, range.offset + range.length);
}
