/** Where a restore finds its generation: in a store of this host, or elsewhere; then it arrives in the cache meanwhile. */
import { VmckptError } from '../errors.js';
import { Generation } from '../store/generation.js';
import type { Elsewhere } from '../store/generation-ref.js';
import { Store } from '../store/store.js';
import type { RestoreMode } from '../vms/records.js';

/** A store elsewhere, and where its generations arrive on this host. */
export interface RemoteSource extends Elsewhere {
  readonly cacheDir: string;
  /** Undefined: as the cache decides. */
  readonly cacheBytes?: number | undefined;
}

export interface GenerationWish {
  /** Not used for a generation that is elsewhere. */
  readonly storeDir: string;
  readonly remote?: RemoteSource | undefined;
  /** NAME or NAME@GENERATION. */
  readonly reference: string;
  readonly mode: RestoreMode;
  readonly trustCommandLine: boolean;
  readonly signal: AbortSignal;
}

export interface FoundGeneration {
  readonly generation: Generation;
  /** From here on it arrives only for others. */
  release(): void;
}

/** @throws VmckptError as Store.open() and Store.locate(); as ArrivingGeneration.attach(); USAGE for a mapped restore */
export async function findGeneration(wish: GenerationWish): Promise<FoundGeneration> {
  const { storeDir, remote, reference, trustCommandLine, signal } = wish;
  if (remote === undefined) {
    const store = await Store.open(storeDir, { trustForeign: trustCommandLine });
    return { generation: await store.locate(reference), release: () => undefined };
  }
  if (wish.mode === 'map')
    throw new VmckptError(
      'USAGE',
      '--mode map needs the whole checkpoint on this host, and it is elsewhere',
      {
        hint: `First vmckpt pull, then vmckpt materialize; or restore with another mode.`,
      },
    );
  const { cacheDir, cacheBytes, ...elsewhere } = remote;
  // A restore from this host does not load it.
  const { ArrivingGeneration } = await import('../page-server/fetcher/client.js');
  const arriving = await ArrivingGeneration.attach({
    ...{ cacheDir, cacheBytes, reference, sources: elsewhere.addresses, signal },
    ...elsewhere,
  });
  const { name, number, dir } = arriving;
  return { generation: new Generation({ name, number, dir, elsewhere }), release: () => arriving.close() };
}
