/**
 * Brings a generation from elsewhere into a store of this host: it arrives in the cache, as for a restore; all of it is waited
 * for; the store gets links to it. Packs that the store has do not travel.
 */
import { copyFile } from 'node:fs/promises';
import fs from 'node:fs';
import path from 'node:path';
import { linkOrCopy } from '../checkpoint/files.js';
import { packFile } from '../checkpoint/format.js';
import { readManifest, type Format2Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import type { IncomingGeneration } from '../store/incoming-generation.js';
import { parseReference } from '../store/reference.js';
import { Store } from '../store/store.js';
import { packKey } from './cache-layout.js';
import { SMALL_FILES } from './contracts.js';
import { ArrivingGeneration } from './fetcher/client.js';
import type { Status } from './fetcher/messages.js';
import { openStore, type Access } from './open-store.js';
import { requireWhole } from './whole-generation.js';

/** Of the name in the store: their packs are looked through for those that are the same. */
const MAX_FORMER_GENERATIONS = 4;

export interface PullOptions extends Access {
  readonly storeDir: string;
  /** NAME or NAME@NUMBER, at the sources. */
  readonly reference: string;
  /** Addresses of replicas. */
  readonly sources: readonly string[];
  /** Its name in the store; that at the sources by default. */
  readonly into?: string | undefined;
  readonly cacheDir: string;
  readonly cacheBytes?: number | undefined;
  /** How long no source may be there; no limit by default. */
  readonly sourceTimeoutMs?: number | undefined;
  readonly onProgress?: (presentBytes: number, totalBytes: number) => void;
  readonly onMessage?: (text: string) => void;
  readonly signal?: AbortSignal | undefined;
}

export interface PullReport {
  readonly name: string;
  readonly generation: number;
  readonly id: string;
  /** It was there already. */
  readonly isUnchanged: boolean;
  /** Of its packs. */
  readonly totalBytes: number;
  /** That came over the network, in this run. */
  readonly receivedBytes: number;
  readonly totalMs: number;
}

/**
 * @throws VmckptError SOURCE_UNAVAILABLE, NO_CHECKPOINT, GENERATION_DIFFERS, STORE_LOCKED, NO_SPACE, of kind `damaged`, and
 *   others; what has arrived stays in the cache for another attempt
 */
export async function pull(options: PullOptions): Promise<PullReport> {
  const startMs = performance.now();
  const { storeDir, reference, sources, cacheDir, cacheBytes, signal } = options;
  for (const source of sources) await (await openStore(source, options)).close();
  const store = await Store.openOrCreate(storeDir);
  const name = options.into ?? parseReference(reference).name;
  const seeds = await seedsOf(store, name);
  const arriving = await ArrivingGeneration.attach({
    ...{ cacheDir, reference, sources, cacheBytes, signal },
    ...{ tlsDir: options.tlsDir, insecurePlaintext: options.insecurePlaintext },
    seeds: new Map([...seeds].map(([key, { file }]) => [key, file])),
  });
  try {
    const manifest = readManifest(arriving.dir) as Format2Manifest;
    const incoming = await store.receive({ name, number: arriving.number, id: manifest.id });
    try {
      const isUnchanged = incoming.isCommitted;
      if (!isUnchanged) {
        arriving.fill();
        await whole(arriving, options);
        await take(incoming, { arriving, manifest, seeds, signal });
      }
      const { id, pages } = manifest;
      return {
        ...{ name, generation: arriving.number, id, isUnchanged, totalBytes: pages.fileBytes },
        receivedBytes: arriving.status?.receivedBytes ?? 0,
        totalMs: Math.round(performance.now() - startMs),
      };
    } finally {
      incoming.close();
    }
  } finally {
    arriving.close();
  }
}

interface Seed {
  readonly file: string;
}

/** Packs that the store has, by packKey(). */
async function seedsOf(store: Store, name: string): Promise<ReadonlyMap<string, Seed>> {
  const seeds = new Map<string, Seed>();
  for (const number of (await store.generations(name)).slice(-MAX_FORMER_GENERATIONS)) {
    const generation = await store.locate(`${name}@${number}`);
    try {
      const { manifest } = generation;
      if (manifest.formatVersion === 1) continue;
      for (const pack of manifest.packs)
        seeds.set(packKey(pack), { file: path.join(generation.dir, packFile(pack.id)) });
    } catch (error) {
      // It is damaged: its packs travel again.
      if (!(error instanceof VmckptError)) throw error;
    }
  }
  return seeds;
}

/** Resolves when all of it has arrived. */
function whole(
  arriving: ArrivingGeneration,
  { onProgress, onMessage, signal, sourceTimeoutMs = Infinity }: PullOptions,
): Promise<void> {
  const named = new Set<string>();
  const tell = (text: string): void => {
    if (!named.has(text)) onMessage?.(text);
    named.add(text);
  };
  return new Promise((resolve, reject) => {
    const look = (status: Status): void => {
      const { damage, isComplete, presentBytes, totalBytes, sources, awayMs } = status;
      onProgress?.(presentBytes, totalBytes);
      for (const text of damage) tell(`${text}.`);
      for (const { label, problem } of sources) if (problem !== undefined) tell(`${label}: ${problem}.`);
      if (isComplete) return resolve();
      if (presentBytes === totalBytes && damage.length > 0) reject(damagedEverywhere(damage[0]!));
      if (awayMs > sourceTimeoutMs) reject(goneFor(awayMs, sources));
    };
    arriving.onStatus = look;
    if (arriving.status !== undefined) look(arriving.status);
    arriving.lost.catch(reject);
    signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    if (signal?.aborted === true) reject(signal.reason as Error);
  });
}

function damagedEverywhere(damage: string): VmckptError {
  return new VmckptError('EXTENT_DAMAGED', `no source has a sound one: ${damage}`, {
    hint: 'vmckpt check, run where the source is, lists all damage. Pull another generation.',
  });
}

function goneFor(awayMs: number, sources: Status['sources']): VmckptError {
  const problems = sources.map(({ label, problem }) => `${label}: ${problem ?? 'gone'}`);
  return new VmckptError(
    'SOURCE_UNAVAILABLE',
    `no source for ${Math.round(awayMs / 1000)} s (${problems.join('; ')})`,
    { hint: 'Try again: what has arrived stays in the cache.' },
  );
}

interface Arrived {
  readonly arriving: ArrivingGeneration;
  readonly manifest: Format2Manifest;
  readonly seeds: ReadonlyMap<string, Seed>;
  readonly signal: AbortSignal | undefined;
}

/** Gives the store what has arrived, after everything in it was verified. */
async function take(
  incoming: IncomingGeneration,
  { arriving, manifest, seeds, signal }: Arrived,
): Promise<void> {
  for (const { id } of manifest.packs) {
    const target = path.join(incoming.dir, packFile(id));
    fs.rmSync(target, { force: true });
    await linkOrCopy(path.join(arriving.dir, packFile(id)), target);
  }
  for (const file of SMALL_FILES) {
    const from = path.join(arriving.dir, file);
    if (fs.existsSync(from)) await copyFile(from, path.join(incoming.dir, file));
  }
  const fresh = manifest.packs.filter((pack) => !seeds.has(packKey(pack)));
  await requireWhole(
    incoming.dir,
    fresh.map(({ id }) => packFile(id)),
    signal,
  );
  signal?.throwIfAborted();
  await incoming.commit();
}
