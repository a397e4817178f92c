/** Measures the fault path without a VM: what a fault costs, and how fast all memory is put in place. */
import path from 'node:path';
import { openNativeImage } from '../checkpoint/native-image.js';
import { readManifest } from '../checkpoint/manifest.js';
import { measureFaults, type FaultBenchFigures } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import type { ArtefactName } from './artefact.js';
import { spreadOf } from './measure.js';
import { bringTo } from './page-cache.js';
import type { FaultPathSample } from './resume-report.js';
import { settleHost } from './workplace.js';

/** This is enough for a steady rate, and little compared with what the guests need. */
const MAX_BYTES = 1 << 30;
const STORED = { checkpointRaw: 'raw', checkpoint: 'zstd' } as const satisfies Partial<
  Record<ArtefactName, FaultPathSample['stored']>
>;

export interface FaultPathOptions {
  /** Of each artefact. */
  readonly files: ReadonlyMap<ArtefactName, readonly string[]>;
  readonly ramBytes: number;
  readonly rounds: number;
  readonly seed: number;
}

/** Returns one sample for each round and each way of storing. */
export async function measureFaultPath(options: FaultPathOptions): Promise<FaultPathSample[]> {
  const { files, ramBytes, rounds, seed } = options;
  const samples: FaultPathSample[] = [];
  for (let round = 1; round <= rounds; round++)
    for (const [artefact, stored] of Object.entries(STORED) as [keyof typeof STORED, 'raw' | 'zstd'][]) {
      const of = files.get(artefact);
      if (of === undefined) continue;
      await settleHost(Math.min(ramBytes, MAX_BYTES));
      await bringTo('warm', of);
      const dir = path.dirname(of[0]!);
      const image = openNativeImage(dir, readManifest(dir));
      const pageCount = Math.min(ramBytes, MAX_BYTES) / PAGE_BYTES;
      const figures = await measureFaults(image, { pageCount, seed: seed + round });
      samples.push({ stored, round, ramMib: ramBytes / 2 ** 20, ...inMicroseconds(figures) });
    }
  return samples;
}

function inMicroseconds(figures: FaultBenchFigures): Omit<FaultPathSample, 'stored' | 'round' | 'ramMib'> {
  const { idleCount, idleP50Ns, idleP99Ns, bareFaultP50Ns, loadedCount, loadedP99Ns } = figures;
  const { bulkBytes, bulkNs, bareNs } = figures;
  return {
    idle: { count: idleCount, p50Us: idleP50Ns / 1000, p99Us: idleP99Ns / 1000 },
    bareFaultP50Us: bareFaultP50Ns / 1000,
    loaded: { count: loadedCount, p99Us: loadedP99Ns / 1000 },
    bulkBytesPerS: Math.round((bulkBytes * 1e9) / bulkNs),
    bareBytesPerS: bareNs === 0 ? null : Math.round((bulkBytes * 1e9) / bareNs),
  };
}

/** The median over all rounds of one figure; undefined when it was not measured. */
export function faultPathMedian(
  samples: readonly FaultPathSample[],
  stored: FaultPathSample['stored'],
  figure: (sample: FaultPathSample) => number | null,
): number | undefined {
  return spreadOf(samples.filter((sample) => sample.stored === stored).map(figure))?.median;
}
