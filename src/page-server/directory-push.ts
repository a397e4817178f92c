/** A generation on its way into a store of this host. */
import fs from 'node:fs';
import path from 'node:path';
import { writeFailure } from '../checkpoint/files.js';
import { GENERATION_FILES, packFile } from '../checkpoint/format.js';
import { VmckptError } from '../errors.js';
import type { IncomingGeneration } from '../store/incoming-generation.js';
import { openRegular } from '../util/regular-file.js';
import { SMALL_FILES, type Push } from './contracts.js';
import type { PackPlaces } from './pack-places.js';
import { completePacks, requireWhole } from './whole-generation.js';

const { O_CREAT, O_WRONLY } = fs.constants;
const PACK = /^pack-[0-9a-f]{32}$/;

export class DirectoryPush implements Push {
  readonly #incoming: IncomingGeneration;
  readonly #places: PackPlaces;

  private constructor(incoming: IncomingGeneration, places: PackPlaces) {
    this.#incoming = incoming;
    this.#places = places;
  }

  static begin(incoming: IncomingGeneration, places: PackPlaces): DirectoryPush {
    return new DirectoryPush(incoming, places);
  }

  get isCommitted(): boolean {
    return this.#incoming.isCommitted;
  }

  async receivedBytes(file: string): Promise<number> {
    return fs.lstatSync(this.#pathOf(file), { throwIfNoEntry: false })?.size ?? 0;
  }

  async put(file: string, offset: number, bytes: Uint8Array): Promise<void> {
    const place = this.#pathOf(file);
    try {
      const fd = openRegular(place, O_CREAT | O_WRONLY);
      try {
        const { size } = fs.fstatSync(fd);
        if (size !== offset) throw new VmckptError('FAILED', `${file} has ${size} bytes, ${offset} expected`);
        await writeFully(fd, bytes, offset);
      } finally {
        fs.closeSync(fd);
      }
    } catch (error) {
      throw writeFailure(error, place);
    }
  }

  async commit(): Promise<void> {
    if (this.#incoming.isCommitted) return;
    const { dir } = this.#incoming;
    if (!fs.existsSync(path.join(dir, GENERATION_FILES.manifest)))
      throw new VmckptError('FILE_MISSING', 'the generation that is pushed has no manifest');
    const arrived = await completePacks(dir, this.#places);
    await requireWhole(dir, arrived.map(packFile));
    await this.#incoming.commit();
  }

  async close(): Promise<void> {
    this.#incoming.close();
  }

  /** @throws VmckptError FAILED for a name that no file of a generation has */
  #pathOf(file: string): string {
    if ((SMALL_FILES as readonly string[]).includes(file) || PACK.test(file))
      return path.join(this.#incoming.dir, file);
    throw new VmckptError('FAILED', `no file of a generation is called ${JSON.stringify(file)}`);
  }
}

async function writeFully(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length;)
    done += await new Promise<number>((resolve, reject) => {
      const onEnd = (error: Error | null, count: number) => (error === null ? resolve(count) : reject(error));
      fs.write(fd, bytes, done, bytes.length - done, offset + done, onEnd);
    });
}
