/** Sends the generations of a name to another store, in their order; and, if it follows, each new one as it appears. */
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import { requireName } from '../store/reference.js';
import { Store } from '../store/store.js';
import { isUnavailable } from './fetcher/source.js';
import { openTarget, push, type PushOptions } from './push.js';

/** Between two looks at the store. */
const LOOK_EVERY_MS = 200;

export interface ReplicateOptions extends Omit<PushOptions, 'reference'> {
  readonly name: string;
  /** Goes on with new generations until the signal ends it. */
  readonly isFollowing: boolean;
  readonly onReplicated?: (generation: ReplicatedGeneration) => void;
}

export interface ReplicatedGeneration {
  readonly name: string;
  readonly generation: number;
  readonly sentBytes: number;
  /** From the moment at which it had appeared in the store until it was there. */
  readonly lagMs: number;
}

export interface ReplicateReport {
  readonly name: string;
  readonly target: string;
  readonly replicated: readonly ReplicatedGeneration[];
}

/**
 * Generations that the target has removed are not sent again, and those that are older than its newest are left out.
 * @throws VmckptError as push(); NO_CHECKPOINT if there is nothing to replicate, and it does not follow
 */
export async function replicate(options: ReplicateOptions): Promise<ReplicateReport> {
  const { name, target, isFollowing, signal } = options;
  requireName(name, 'a checkpoint');
  const store = await Store.open(options.storeDir);
  const replicated: ReplicatedGeneration[] = [];
  if (!isFollowing) await store.locate(name);
  let newestThere = await newestAt(options);
  for (;;) {
    for (const number of await store.generations(name)) {
      if (number <= newestThere) continue;
      const sent = await send(store, number, options);
      if (sent === undefined) continue;
      newestThere = number;
      replicated.push(sent);
      options.onReplicated?.(sent);
    }
    if (!isFollowing || signal?.aborted === true) return { name, target, replicated };
    await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => undefined);
  }
}

/** @returns undefined if it was removed in the meantime, or the signal has ended the following */
async function send(
  store: Store,
  number: number,
  options: ReplicateOptions,
): Promise<ReplicatedGeneration | undefined> {
  const { name, isFollowing, signal } = options;
  const appearedMs = appearanceMs(path.join(store.dir, name, String(number)));
  try {
    const { sentBytes } = await push({ ...options, reference: `${name}@${number}` });
    return { name, generation: number, sentBytes, lagMs: Math.max(0, Math.round(Date.now() - appearedMs)) };
  } catch (error) {
    if (isFollowing && signal?.aborted === true) return undefined;
    if (error instanceof VmckptError && error.code === 'NO_CHECKPOINT') return undefined;
    throw error;
  }
}

/** The rename that gave it its number. */
function appearanceMs(dir: string): number {
  return fs.statSync(dir, { throwIfNoEntry: false })?.ctimeMs ?? Date.now();
}

/** The number of the newest generation that the target has; 0 if it has none. */
async function newestAt(options: ReplicateOptions): Promise<number> {
  const { name, sourceTimeoutMs = Infinity, onMessage, signal } = options;
  const startMs = performance.now();
  for (let isFirst = true; ; isFirst = false) {
    const store = await openTarget(options);
    try {
      const listed = await store.list();
      return Math.max(0, ...listed.filter((one) => one.name === name).map(({ generation }) => generation));
    } catch (error) {
      if (!isUnavailable(error) || performance.now() - startMs > sourceTimeoutMs) throw error;
      if (isFirst) onMessage?.(`${error.message}. Trying again.`);
      await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => signal?.throwIfAborted());
    } finally {
      await store.close();
    }
  }
}
