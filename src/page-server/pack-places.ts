/** Where the packs of a local store lie: generations share them through hard links, and each has a name for it. */
import fs from 'node:fs';
import path from 'node:path';
import { packFile } from '../checkpoint/format.js';
import type { Pack } from '../checkpoint/manifest-schema.js';
import { VmckptError } from '../errors.js';
import type { Generation } from '../store/generation.js';
import type { Store } from '../store/store.js';
import { packKey, presenceFile } from './cache-layout.js';

/** Finds whole packs by what the manifests of their generations say about them. */
export class PackPlaces {
  readonly #store: Store;
  readonly #isMeant: (name: string) => boolean;

  /** @param isMeant whether the generations of a checkpoint count */
  constructor(store: Store, isMeant: (name: string) => boolean = () => true) {
    this.#store = store;
    this.#isMeant = isMeant;
  }

  /** By their ids, whatever their content. */
  async having(packIds: readonly string[]): Promise<ReadonlySet<string>> {
    const found = new Set<string>();
    for (const generation of await this.#generations())
      for (const id of packIds) if (isWhole(generation.dir, id)) found.add(id);
    return found;
  }

  /** A file with exactly this pack. */
  async find(pack: Pack): Promise<string | undefined> {
    for (const generation of await this.#generations())
      if (isWhole(generation.dir, pack.id) && hasPack(generation, pack))
        return path.join(generation.dir, packFile(pack.id));
    return undefined;
  }

  /** The newest of each name first. */
  async #generations(): Promise<Generation[]> {
    const found: Generation[] = [];
    for (const name of (await this.#store.names()).filter(this.#isMeant))
      for (const number of (await this.#store.generations(name)).reverse())
        found.push(await this.#store.locate(`${name}@${number}`));
    return found;
  }
}

function isWhole(dir: string, packId: string): boolean {
  const isThere = (file: string) => fs.lstatSync(path.join(dir, file), { throwIfNoEntry: false });
  return isThere(packFile(packId))?.isFile() === true && isThere(presenceFile(packId)) === undefined;
}

function hasPack(generation: Generation, pack: Pack): boolean {
  try {
    const { manifest } = generation;
    if (manifest.formatVersion === 1) return false;
    return manifest.packs.some((other) => other.id === pack.id && packKey(other) === packKey(pack));
  } catch (error) {
    // It is damaged, and others may have the pack, too.
    if (error instanceof VmckptError) return false;
    throw error;
  }
}
