/** Demand faults of a real guest's lazy restores, as scripts/record-traces.sh has recorded them. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { brotliDecompressSync } from 'node:zlib';
import { PACKAGE_ROOT } from '../../src/util/package-paths.js';
import { decodeTrace } from '../../src/working-set/codec.js';
import { prefetchedBy, type PrefetchPlan } from '../../src/working-set/plan.js';
import { pagesOf } from '../../src/working-set/runs.js';
import { TraceRecorder, type RestoreTrace } from '../../src/working-set/trace.js';
import type { InstallUnits } from '../../src/working-set/units.js';

export const RECORDED_WORKLOADS = ['idle', 'memcached', 'http'] as const;
export type RecordedWorkload = (typeof RECORDED_WORKLOADS)[number];

/** Of a trace's header: docs/working-set.md. */
const HEADER_BYTES = 64;
const AT_BODY_BYTES = 32;

/** One for each restore, in their order. */
export function recordedTraces(workload: RecordedWorkload): RestoreTrace[] {
  const traces: RestoreTrace[] = [];
  for (let rest = read(workload); rest.length > 0;) {
    const bytes = HEADER_BYTES + Number(rest.readBigUInt64LE(AT_BODY_BYTES));
    const trace = decodeTrace(rest.subarray(0, bytes));
    if (trace.status !== 'ok') throw new Error(`a trace of ${workload}: ${trace.problem}`);
    traces.push(trace.value);
    rest = rest.subarray(bytes);
  }
  return traces;
}

/** Of the checkpoint that the traces were recorded from. */
export function recordedUnits(): InstallUnits {
  const bytes = read('units');
  const leaders = Uint32Array.from(
    { length: bytes.length / 2 },
    (_, page) => page - bytes.readUInt16LE(2 * page),
  );
  const members = new Map<number, number[]>();
  for (const [page, leader] of leaders.entries()) {
    const unit = members.get(leader);
    if (unit === undefined) members.set(leader, [page]);
    else unit.push(page);
  }
  return {
    pageCount: leaders.length,
    holdsData: () => true,
    leaderOf: (page) => leaders[page]!,
    membersOf: (page) => members.get(leaders[page]!)!,
  };
}

function read(name: string): Buffer {
  const dir = process.env['VMCKPT_TRACES'] ?? path.join(PACKAGE_ROOT, 'fixtures/traces');
  return brotliDecompressSync(readFileSync(path.join(dir, `${name}.br`)));
}

/** What the same restore would have shown with a prediction: prefetched units do not fault. */
export function replayWith(plan: PrefetchPlan, lazy: RestoreTrace, units: InstallUnits): RestoreTrace {
  const prefetched = prefetchedBy(plan);
  const inPlace = new Set(Array.from(pagesOf(prefetched), (page) => units.leaderOf(page)));
  const recorder = new TraceRecorder();
  for (const [i, page] of lazy.faultPages.entries())
    if (!inPlace.has(units.leaderOf(page))) recorder.fault(page, lazy.faultTimesUs[i]!);
  const { withheld, explorePhase } = plan;
  return recorder.finish({ ...lazy, prefetched, withheld, explorePhase });
}
