/**
 * The cache: generations from elsewhere, and their packs, which are shared. One process writes to it and holds its lock.
 * docs/remote.md describes its folder.
 */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { link, mkdir, readdir, rm, utimes } from 'node:fs/promises';
import path from 'node:path';
import { DIRECTORY_MODE, FILE_MODE, linkOrCopy, writeFailure } from '../../checkpoint/files.js';
import type { Pack } from '../../checkpoint/manifest-schema.js';
import { VmckptError } from '../../errors.js';
import { usersOf } from '../../store/generation-use.js';
import { LockFile } from '../../store/lock-file.js';
import { parseGeneration } from '../../store/reference.js';
import { freedBytes } from '../../store/freed-bytes.js';
import { formatBytes } from '../../util/units.js';
import { CACHE_FILES, PRESENT_SUFFIX, packKey } from '../cache-layout.js';
import { ArrivingPack } from './arriving-pack.js';

const ARRIVALS_BYTES = 4096;
/** Of the room on its file system that is free or the cache's own. */
const DEFAULT_SHARE = 0.5;

/** What is looked for and not found is made; what is found is left alone. */
export class Cache {
  readonly dir: string;
  readonly #lock: LockFile;
  /** Undefined: half of what there is room for. */
  maxBytes: number | undefined;
  /** Keys of generations that this process has to do with. */
  readonly #inUse = new Map<string, number>();
  /** Those that are arriving, by their keys. */
  readonly #packs = new Map<string, ArrivingPack>();

  private constructor(dir: string, lock: LockFile) {
    this.dir = dir;
    this.#lock = lock;
  }

  /** @returns undefined while another process has it. @throws VmckptError NO_SPACE, STORE_NOT_WRITABLE */
  static async open(dir: string): Promise<Cache | undefined> {
    try {
      await mkdir(dir, { recursive: true, mode: DIRECTORY_MODE });
      const lock = LockFile.tryTake(path.join(dir, CACHE_FILES.lock));
      if (lock === undefined) return undefined;
      const cache = new Cache(dir, lock);
      for (const folder of [CACHE_FILES.packs, CACHE_FILES.stores])
        await mkdir(path.join(dir, folder), { recursive: true, mode: DIRECTORY_MODE });
      // They stay: processes that have them open know no others.
      if (!fs.existsSync(cache.pathOf('wants'))) execFileSync('mkfifo', ['-m', '600', cache.pathOf('wants')]);
      const arrivals = fs.openSync(
        cache.pathOf('arrivals'),
        fs.constants.O_RDWR | fs.constants.O_CREAT,
        FILE_MODE,
      );
      if (fs.fstatSync(arrivals).size < ARRIVALS_BYTES) fs.ftruncateSync(arrivals, ARRIVALS_BYTES);
      fs.closeSync(arrivals);
      return cache;
    } catch (error) {
      throw writeFailure(error, dir);
    }
  }

  pathOf(file: keyof typeof CACHE_FILES): string {
    return path.join(this.dir, CACHE_FILES[file]);
  }

  /** The folder of a store with one generation. */
  storeDir(key: string): string {
    return path.join(this.pathOf('stores'), key);
  }

  /** A generation that is not removed from now on. */
  use(key: string): void {
    this.#inUse.set(key, (this.#inUse.get(key) ?? 0) + 1);
  }

  /** @throws nothing: the time of use only decides what is removed first */
  async leave(key: string): Promise<void> {
    const users = (this.#inUse.get(key) ?? 1) - 1;
    if (users > 0) this.#inUse.set(key, users);
    else this.#inUse.delete(key);
    const now = new Date();
    await utimes(this.storeDir(key), now, now).catch(() => undefined);
  }

  /**
   * Gives a folder the pack: whole, or as it arrives.
   * @param seed a file with the whole pack, if there is one
   * @returns undefined if it is whole
   * @throws VmckptError NO_SPACE
   */
  async place(pack: Pack, target: string, seed?: string): Promise<ArrivingPack | undefined> {
    const file = path.join(this.pathOf('packs'), packKey(pack));
    const presence = `${file}${PRESENT_SUFFIX}`;
    try {
      const isWhole = () => fs.existsSync(file) && !fs.existsSync(presence);
      if (seed !== undefined && !isWhole()) await this.#takeOver(seed, pack);
      const arriving = isWhole() ? undefined : this.#arriving(file, pack);
      await link(file, target);
      // It may have become whole in the meantime.
      if (arriving === undefined || arriving.isWhole) return undefined;
      await link(presence, `${target}${PRESENT_SUFFIX}`);
      return arriving;
    } catch (error) {
      throw writeFailure(error, this.dir);
    }
  }

  /** The pack of a generation that is there. @returns undefined if it is whole */
  arriving(pack: Pack): ArrivingPack | undefined {
    const file = path.join(this.pathOf('packs'), packKey(pack));
    return fs.existsSync(`${file}${PRESENT_SUFFIX}`) ? this.#arriving(file, pack) : undefined;
  }

  /** All of it is here: it is made durable, and becomes an ordinary pack. It stays open for who repairs it. */
  async finish(arriving: ArrivingPack): Promise<void> {
    await arriving.makeDurable();
    const presence = `${arriving.file}${PRESENT_SUFFIX}`;
    const { ino } = fs.statSync(presence);
    // From here on no generation gets a link to it.
    fs.rmSync(presence);
    for (const file of await this.#presenceFiles())
      if (fs.statSync(file, { throwIfNoEntry: false })?.ino === ino) fs.rmSync(file, { force: true });
    this.#packs.delete(packKey(arriving.pack));
  }

  async makeDurable(): Promise<void> {
    for (const arriving of this.#packs.values()) await arriving.makeDurable();
  }

  /**
   * Removes generations that are not in use, the one that was not used for the longest time first, until there is room for
   * all that is arriving.
   * @throws VmckptError NO_SPACE
   */
  async makeRoom(): Promise<void> {
    const maxBytes = this.maxBytes ?? (await this.#defaultBytes());
    for (;;) {
      const usedBytes = await this.#usedBytes();
      const missingBytes = this.#missingBytes();
      if (usedBytes + missingBytes <= maxBytes) return;
      const oldest = await this.#oldestUnused();
      if (oldest === undefined)
        throw new VmckptError(
          'NO_SPACE',
          `the cache ${this.dir} may have ${formatBytes(maxBytes)}; ${formatBytes(usedBytes)} are in use, ${formatBytes(missingBytes)} more are needed`,
          { hint: 'Allow more with --cache-size, or choose another folder with --cache.' },
        );
      await rm(this.storeDir(oldest), { recursive: true, force: true });
      await this.#removeUnusedPacks();
    }
  }

  /** Removes what dead processes have left unfinished. */
  async sweep(): Promise<void> {
    for (const { nameDir } of await this.#nameDirs())
      for (const entry of await readdir(nameDir))
        if (entry.startsWith('.tmp-')) await rm(path.join(nameDir, entry), { recursive: true, force: true });
    await this.#removeUnusedPacks();
  }

  close(): void {
    for (const arriving of this.#packs.values()) arriving.close();
    this.#lock.release();
  }

  #arriving(file: string, pack: Pack): ArrivingPack {
    const key = packKey(pack);
    const arriving = this.#packs.get(key) ?? ArrivingPack.open(file, pack);
    this.#packs.set(key, arriving);
    return arriving;
  }

  /** A whole pack in place of one that was arriving. */
  async #takeOver(seed: string, pack: Pack): Promise<void> {
    const file = path.join(this.pathOf('packs'), packKey(pack));
    if (fs.existsSync(file)) return;
    if (fs.statSync(seed).size === pack.fileBytes) await linkOrCopy(seed, file);
  }

  async #nameDirs(): Promise<{ key: string; nameDir: string }[]> {
    const found: { key: string; nameDir: string }[] = [];
    for (const key of await readdir(this.pathOf('stores')))
      for (const name of await readdir(this.storeDir(key)))
        found.push({ key, nameDir: path.join(this.storeDir(key), name) });
    return found;
  }

  async #generationDirs(): Promise<string[]> {
    const dirs: string[] = [];
    for (const { nameDir } of await this.#nameDirs())
      for (const entry of await readdir(nameDir)) dirs.push(path.join(nameDir, entry));
    return dirs.filter((dir) => fs.statSync(dir, { throwIfNoEntry: false })?.isDirectory() === true);
  }

  async #presenceFiles(): Promise<string[]> {
    const dirs = [this.pathOf('packs'), ...(await this.#generationDirs())];
    const files = await Promise.all(
      dirs.map(async (dir) => (await readdir(dir)).map((file) => path.join(dir, file))),
    );
    return files.flat().filter((file) => file.endsWith(PRESENT_SUFFIX));
  }

  async #oldestUnused(): Promise<string | undefined> {
    const used = new Set<string>();
    for (const { key, nameDir } of await this.#nameDirs())
      for (const entry of await readdir(nameDir)) {
        const number = parseGeneration(entry);
        if (number !== undefined && usersOf(nameDir, number).length > 0) used.add(key);
      }
    const keys = (await readdir(this.pathOf('stores'))).filter(
      (key) => !used.has(key) && !this.#inUse.has(key),
    );
    const lastUseMs = (key: string) => fs.statSync(this.storeDir(key)).mtimeMs;
    return keys.sort((a, b) => lastUseMs(a) - lastUseMs(b))[0];
  }

  /** Packs that no generation of the cache has a link to. */
  async #removeUnusedPacks(): Promise<void> {
    const linked = new Set<number>();
    for (const dir of await this.#generationDirs())
      for (const file of await readdir(dir)) linked.add(fs.statSync(path.join(dir, file)).ino);
    for (const entry of await readdir(this.pathOf('packs'))) {
      const file = path.join(this.pathOf('packs'), entry);
      const found = fs.statSync(file, { throwIfNoEntry: false });
      if (found === undefined || linked.has(found.ino)) continue;
      this.#packs.get(entry)?.close();
      this.#packs.delete(entry);
      fs.rmSync(file);
    }
  }

  /** A file with several names counts once, and not if a store outside has it, too. */
  async #usedBytes(): Promise<number> {
    const gone = new Map<string, number>();
    return (await freedBytes(this.pathOf('packs'), gone)) + (await freedBytes(this.pathOf('stores'), gone));
  }

  /** What is still to come. */
  #missingBytes(): number {
    return [...this.#packs.values()].reduce(
      (sum, { pack, presentBytes }) => sum + pack.fileBytes - presentBytes,
      0,
    );
  }

  async #defaultBytes(): Promise<number> {
    const { bavail, bsize } = fs.statfsSync(this.dir);
    return DEFAULT_SHARE * (bavail * bsize + (await this.#usedBytes()));
  }
}
