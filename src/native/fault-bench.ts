/** Measures the native fault path on memory of this process (native/core/fault_bench.h). */
import { integer, loadAddon } from './addon.js';
import type { CheckpointImage } from './fault-path.js';

/** Times are measured inside the server. */
export interface FaultBenchFigures {
  readonly idleCount: number;
  readonly idleP50Ns: number;
  readonly idleP99Ns: number;
  /** As idleP50Ns, for a loop of UFFDIO_COPY with its page at hand: the cost of the system call itself. */
  readonly bareFaultP50Ns: number;
  /** While the background installs the rest. */
  readonly loadedCount: number;
  readonly loadedP99Ns: number;
  /** All data, installed by one background thread. */
  readonly bulkBytes: number;
  readonly bulkNs: number;
  /** The same by a loop of UFFDIO_COPY from a mapping that has been read before; 0 unless pages are stored raw. */
  readonly bareNs: number;
}

interface FaultBenchAddon {
  readonly measureFaults: (options: {
    readonly image: object;
    readonly pageCount: number;
    readonly seed: number;
  }) => Promise<FaultBenchFigures>;
}

/** Measures the first `pageCount` pages, which should be in the page cache. May fail with a system error. */
export function measureFaults(
  image: CheckpointImage,
  { pageCount, seed }: { readonly pageCount: number; readonly seed: number },
): Promise<FaultBenchFigures> {
  return loadAddon<FaultBenchAddon>().measureFaults({
    image: image.native,
    pageCount: integer('pageCount', pageCount, { min: 1 }),
    seed: integer('seed', seed),
  });
}
