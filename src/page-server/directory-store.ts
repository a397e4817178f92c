/** A store in a folder of this host, by the contract of stores elsewhere: what `serve` serves, and what copies read. */
import fs from 'node:fs';
import path from 'node:path';
import { errnoOf, readAt, writeFailure } from '../checkpoint/files.js';
import { packFile } from '../checkpoint/format.js';
import { readEncodedManifest } from '../checkpoint/manifest.js';
import { DAMAGE_HINT, VmckptError } from '../errors.js';
import { Store, type Generation } from '../store/store.js';
import type { GenerationUse } from '../store/generation-use.js';
import { parseReference } from '../store/reference.js';
import { openRegular } from '../util/regular-file.js';
import { replaceFile } from '../working-set/replace-file.js';
import {
  MAX_WHOLE_BYTES,
  SMALL_FILES,
  type WrittenHint,
  type OpenedGeneration,
  type PackRange,
  type Push,
  type PushedGeneration,
  type Range,
  type ReadOptions,
  type RemoteGeneration,
  type RemoteStore,
  type SmallFile,
} from './contracts.js';
import { DirectoryPush } from './directory-push.js';
import { PackPlaces } from './pack-places.js';
import { ReadFile } from './read-file.js';

export interface DirectoryOptions {
  /** Whether the generations of a checkpoint may be read; all of them by default. */
  readonly mayRead?: (name: string) => boolean;
  /** For pushes: whether a store is made where there is none. */
  readonly isMade?: boolean;
}

export class DirectoryStore implements RemoteStore {
  readonly label: string;
  readonly #store: Store;
  readonly #mayRead: (name: string) => boolean;
  readonly #places: PackPlaces;
  /** Of opened generations. */
  readonly #packs = new PackFiles();
  readonly #opened = new Set<LocalGeneration>();

  private constructor(store: Store, mayRead: (name: string) => boolean) {
    this.label = store.dir;
    this.#store = store;
    this.#mayRead = mayRead;
    this.#places = new PackPlaces(store, mayRead);
  }

  /** @throws VmckptError as Store.open() and Store.openOrCreate() */
  static async open(
    dir: string,
    { mayRead = () => true, isMade }: DirectoryOptions = {},
  ): Promise<DirectoryStore> {
    return new DirectoryStore(await (isMade === true ? Store.openOrCreate(dir) : Store.open(dir)), mayRead);
  }

  have(packIds: readonly string[]): Promise<ReadonlySet<string>> {
    return this.#places.having(packIds);
  }

  async read({ packId, offset, length }: PackRange, { signal }: ReadOptions): Promise<Uint8Array> {
    signal?.throwIfAborted();
    const file = this.#packs.fileOf(packId);
    const bytes = await file.read(offset, length);
    if (bytes.length === length) return bytes;
    throw new VmckptError('EXTENT_DAMAGED', `${this.label}: ${packFile(packId)} ends at ${file.bytes}`, {
      hint: DAMAGE_HINT,
    });
  }

  async list(): Promise<RemoteGeneration[]> {
    const summaries = (await this.#store.list()).filter(({ name }) => this.#mayRead(name));
    return summaries.map(({ name, generation, facts, problem }) => ({
      ...{ name, generation, facts, problem },
    }));
  }

  async open(reference: string): Promise<OpenedGeneration> {
    const generation = await this.#locate(reference);
    const use = generation.hold();
    const onClose = (closed: LocalGeneration) => this.#opened.delete(closed);
    try {
      const opened = new LocalGeneration(generation, { use, packs: this.#packs, onClose });
      this.#opened.add(opened);
      return opened;
    } catch (error) {
      use.release();
      throw error;
    }
  }

  async push(generation: PushedGeneration): Promise<Push> {
    return DirectoryPush.begin(await this.#store.receive(generation), this.#places);
  }

  async remove(reference: string): Promise<void> {
    await this.#locate(reference);
    await this.#store.remove(reference);
  }

  async close(): Promise<void> {
    for (const opened of this.#opened) await opened.close();
  }

  /** One that may not be read is not there. */
  #locate(reference: string): Promise<Generation> {
    const { name } = parseReference(reference);
    if (this.#mayRead(name)) return this.#store.locate(reference);
    throw new VmckptError('NO_CHECKPOINT', `there is no checkpoint "${name}" that may be read`);
  }
}

interface Opened {
  readonly use: GenerationUse;
  readonly packs: PackFiles;
  readonly onClose: (closed: LocalGeneration) => void;
}

class LocalGeneration implements OpenedGeneration {
  readonly name: string;
  readonly number: number;
  readonly manifest: Uint8Array;
  readonly #dir: string;
  readonly #packIds: readonly string[];
  readonly #opened: Opened;
  #isClosed = false;

  constructor({ name, number, dir }: Generation, opened: Opened) {
    const { encoded, manifest } = readEncodedManifest(dir);
    this.name = name;
    this.number = number;
    this.manifest = encoded;
    this.#dir = dir;
    this.#packIds = manifest.formatVersion === 2 ? manifest.packs.map(({ id }) => id) : [];
    this.#opened = opened;
    opened.packs.add(dir, this.#packIds);
  }

  get files(): ReadonlyMap<SmallFile, number> {
    const found = new Map<SmallFile, number>();
    for (const file of SMALL_FILES) {
      const status = fs.lstatSync(path.join(this.#dir, file), { throwIfNoEntry: false });
      if (status?.isFile() === true) found.set(file, status.size);
    }
    return found;
  }

  async readFile(file: SmallFile, range?: Range): Promise<Uint8Array | undefined> {
    let fd: number;
    try {
      fd = openRegular(path.join(this.#dir, file));
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' && fs.existsSync(this.#dir)) return undefined;
      throw new VmckptError('FILE_MISSING', `${this.name}@${this.number} is gone`, { cause: error });
    }
    try {
      const { offset, length } = range ?? { offset: 0, length: fs.fstatSync(fd).size };
      if (range === undefined && length > MAX_WHOLE_BYTES)
        throw new VmckptError('FAILED', `${file} has ${length} bytes, at most ${MAX_WHOLE_BYTES} expected`);
      const bytes = Buffer.alloc(length);
      return bytes.subarray(0, readAt(fd, bytes, offset));
    } finally {
      fs.closeSync(fd);
    }
  }

  async writeHint(file: WrittenHint, bytes: Uint8Array): Promise<void> {
    try {
      await replaceFile(path.join(this.#dir, file), (fd) => fs.writeSync(fd, bytes) === bytes.length);
    } catch (error) {
      throw writeFailure(error, path.join(this.#dir, file));
    }
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#opened.packs.remove(this.#packIds);
    this.#opened.use.release();
    this.#opened.onClose(this);
  }
}

/** Packs of opened generations, open for reading as long as one of these needs them. */
class PackFiles {
  readonly #packs = new Map<string, { readonly file: ReadFile; users: number }>();

  /** @throws VmckptError NOT_A_FILE; system errors */
  add(dir: string, packIds: readonly string[]): void {
    const added: string[] = [];
    try {
      for (const id of packIds) {
        const pack = this.#packs.get(id) ?? { file: ReadFile.open(path.join(dir, packFile(id))), users: 0 };
        pack.users++;
        this.#packs.set(id, pack);
        added.push(id);
      }
    } catch (error) {
      this.remove(added);
      throw error;
    }
  }

  remove(packIds: readonly string[]): void {
    for (const id of packIds) {
      const pack = this.#packs.get(id);
      if (pack === undefined || --pack.users > 0) continue;
      this.#packs.delete(id);
      pack.file.close();
    }
  }

  /** @throws VmckptError NO_PACK */
  fileOf(packId: string): ReadFile {
    const pack = this.#packs.get(packId);
    if (pack !== undefined) return pack.file;
    throw new VmckptError('NO_PACK', `no generation that was opened here has the pack ${packId}`);
  }
}
