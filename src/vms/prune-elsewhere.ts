/** The same as prune.ts, for a store elsewhere: its server says what is in use. */
import { VmckptError } from '../errors.js';
import type { RemoteGeneration, RemoteStore } from '../page-server/contracts.js';
import { decide, requirePolicy } from '../store/retention.js';
import type { FailedRemoval, KeptGeneration, PruneOptions, PruneReport, RemovedGeneration } from './prune.js';

/** In a bucket. */
export const DEFAULT_GRACE_MS = 24 * 3600 * 1000;

interface ElsewhereOptions extends Omit<PruneOptions, 'storeDir'> {
  /** In a bucket: files that no generation needs stay so long. */
  readonly graceMs: number;
}

/**
 * What is freed is what each generation wrote; what later ones share of it is not known here. In a bucket it is what was
 * deleted now, of generations that were removed earlier.
 * @throws VmckptError USAGE for a policy that keeps nothing, NO_CHECKPOINT, SOURCE_UNAVAILABLE, or the signal's reason
 */
export async function pruneElsewhere(
  store: RemoteStore,
  { name, policy, isDryRun = false, signal, graceMs }: ElsewhereOptions,
): Promise<PruneReport> {
  requirePolicy(policy);
  const listed = (await store.list()).filter((generation) => name === undefined || generation.name === name);
  if (name !== undefined && listed.length === 0)
    throw new VmckptError('NO_CHECKPOINT', `there is no checkpoint "${name}" in ${store.label}`, {
      hint: 'vmckpt list shows all checkpoints.',
    });
  const names = [...new Set(listed.map((generation) => generation.name))];
  const judged = names.flatMap((of) =>
    judge(
      listed.filter((generation) => generation.name === of),
      policy,
    ),
  );
  const kept = judged
    .filter(({ reasons }) => reasons.length > 0)
    .map(({ name: of, generation, created, reasons }) => ({
      name: of,
      generation,
      created,
      reasons,
      neededBy: null,
    }));
  const removed: RemovedGeneration[] = [];
  const failed: FailedRemoval[] = [];
  for (const { name: of, generation, created, reasons, ownBytes } of judged) {
    if (reasons.length > 0) continue;
    const label = { name: of, generation, created };
    signal?.throwIfAborted();
    try {
      if (!isDryRun) await store.remove(`${label.name}@${label.generation}`);
      removed.push({ ...label, freedBytes: ownBytes });
    } catch (error) {
      if (!(error instanceof VmckptError) || error.code === 'SOURCE_UNAVAILABLE') throw error;
      const { code, message, hint } = error;
      failed.push({ ...label, code, message, ...(hint !== undefined && { hint }) });
    }
  }
  const removedBytes = removed.reduce((bytes, generation) => bytes + generation.freedBytes, 0);
  const deleted = isDryRun ? undefined : await store.deleteUnneeded?.(graceMs);
  return { isDryRun, kept, removed, failed, freedBytes: deleted?.bytes ?? removedBytes };
}

type Judged = Omit<KeptGeneration, 'neededBy'> & { readonly ownBytes: number };

/** Those of one name. One that cannot be read stays, and counts for no rule. */
function judge(generations: readonly RemoteGeneration[], policy: PruneOptions['policy']): Judged[] {
  const dated = generations.flatMap(({ generation, facts }) =>
    facts === undefined ? [] : [{ generation, createdMs: Date.parse(facts.created) }],
  );
  const reasonsOf = new Map(
    decide(dated, policy, Date.now()).map((found) => [found.generation, found.reasons]),
  );
  return generations.map(({ name, generation, facts }) => ({
    ...{ name, generation, created: facts?.created ?? null },
    reasons: facts === undefined ? ['unreadable'] : reasonsOf.get(generation)!,
    ownBytes: facts?.sizes.ownBytes ?? 0,
  }));
}
