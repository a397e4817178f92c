/** Removes the generations that a policy does not keep, each checkpoint by itself. What a VM needs stays. */
import { writeFailure } from '../checkpoint/files.js';
import { VmckptError, type ErrorCode } from '../errors.js';
import { freedBytes } from '../store/freed-bytes.js';
import { decide, requirePolicy, type RetentionPolicy } from '../store/retention.js';
import { Store, type Generation } from '../store/store.js';
import { neededBy } from './needs-generation.js';

export interface PruneOptions {
  readonly storeDir: string;
  /** Of the checkpoint; all of the store when undefined. */
  readonly name?: string | undefined;
  readonly policy: RetentionPolicy;
  /** Remove nothing. */
  readonly isDryRun?: boolean;
  /** Heeded between two removals. */
  readonly signal?: AbortSignal;
}

interface Label {
  readonly name: string;
  readonly generation: number;
  /** ISO 8601; null when the manifest cannot be read. */
  readonly created: string | null;
}

export interface KeptGeneration extends Label {
  /** The rules that keep it, as `last`, `within 2h`, `oldest daily`; if there are none, `needed` or `unreadable`. */
  readonly reasons: readonly string[];
  /** `VM "web"`, `process 123`: why it stays although no rule keeps it. */
  readonly neededBy: string | null;
}

export interface RemovedGeneration extends Label {
  /** Of the files that it shared with no other generation. */
  readonly freedBytes: number;
}

export interface FailedRemoval extends Label {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string | undefined;
}

export interface PruneReport {
  /** `removed` is what would be. */
  readonly isDryRun: boolean;
  readonly kept: readonly KeptGeneration[];
  readonly removed: readonly RemovedGeneration[];
  /** They are whole. */
  readonly failed: readonly FailedRemoval[];
  readonly freedBytes: number;
}

/**
 * A generation that cannot be read stays, and counts for no rule.
 * @throws VmckptError USAGE for a policy that keeps nothing, NO_STORE, STORE_FOREIGN_OWNER, NOT_PERMITTED, NO_CHECKPOINT, or the
 *   signal's reason: each generation is whole or gone then
 */
export async function prune(options: PruneOptions): Promise<PruneReport> {
  const { storeDir, policy, isDryRun = false, signal } = options;
  requirePolicy(policy);
  const store = await Store.open(storeDir);
  if (options.name !== undefined) await store.locate(options.name);
  const judged: KeptGeneration[] = [];
  for (const name of options.name === undefined ? await store.names() : [options.name])
    judged.push(...(await judge(store, name, policy)));
  const kept = judged.filter(({ reasons }) => reasons.length > 0);
  const superfluous = judged
    .filter(({ reasons }) => reasons.length === 0)
    .map(({ name, generation, created }) => ({ name, generation, created }));
  const { removed, failed } = isDryRun
    ? { removed: await pretendRemoval(store, superfluous), failed: [] }
    : await removeAll(store, superfluous, signal);
  const freed = removed.reduce((bytes, generation) => bytes + generation.freedBytes, 0);
  return { isDryRun, kept, removed, failed, freedBytes: freed };
}

/** All generations of a name, the oldest first; those without a reason may go. */
async function judge(store: Store, name: string, policy: RetentionPolicy): Promise<KeptGeneration[]> {
  const found: Found[] = [];
  for (const number of await store.generations(name)) found.push(await look(store, name, number));
  const dated = found.flatMap(({ label: { generation, created } }) =>
    created === null ? [] : [{ generation, createdMs: Date.parse(created) }],
  );
  const byPolicy = new Map(
    decide(dated, policy, Date.now()).map(({ generation, reasons }) => [generation, reasons]),
  );
  return found.map(({ label, readable }) => {
    if (readable === undefined) return { ...label, reasons: ['unreadable'], neededBy: null };
    const reasons = byPolicy.get(label.generation)!;
    const user = reasons.length > 0 ? undefined : neededBy(readable);
    return { ...label, reasons: user === undefined ? reasons : ['needed'], neededBy: user ?? null };
  });
}

interface Found {
  readonly label: Label;
  /** Undefined when its manifest cannot be read. */
  readonly readable: Generation | undefined;
}

async function look(store: Store, name: string, generation: number): Promise<Found> {
  try {
    const readable = await store.locate(`${name}@${generation}`);
    return { label: { name, generation, created: readable.manifest.created }, readable };
  } catch (error) {
    if (!(error instanceof VmckptError)) throw error;
    return { label: { name, generation, created: null }, readable: undefined };
  }
}

async function pretendRemoval(store: Store, superfluous: readonly Label[]): Promise<RemovedGeneration[]> {
  const removed: RemovedGeneration[] = [];
  const goneLinks = new Map<string, number>();
  for (const label of superfluous) {
    const { dir } = await store.locate(referenceOf(label));
    removed.push({ ...label, freedBytes: await freedBytes(dir, goneLinks) });
  }
  return removed;
}

async function removeAll(
  store: Store,
  superfluous: readonly Label[],
  signal: AbortSignal | undefined,
): Promise<Pick<PruneReport, 'removed' | 'failed'>> {
  const removed: RemovedGeneration[] = [];
  const failed: FailedRemoval[] = [];
  for (const label of superfluous) {
    signal?.throwIfAborted();
    const reference = referenceOf(label);
    try {
      const { dir } = await store.locate(reference);
      const bytes = await freedBytes(dir);
      await store.remove(reference);
      removed.push({ ...label, freedBytes: bytes });
    } catch (error) {
      const { code, message, hint } = writeFailure(error, reference);
      failed.push({ ...label, code, message, ...(hint !== undefined && { hint }) });
    }
  }
  return { removed, failed };
}

function referenceOf({ name, generation }: Label): string {
  return `${name}@${generation}`;
}
