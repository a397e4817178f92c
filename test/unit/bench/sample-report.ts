/** A report without a bench: figures that are easy to recognise. */
import { summarize } from '../../../src/bench/figures.js';
import { perceive } from '../../../src/bench/measure.js';
import { computeRatios } from '../../../src/bench/ratios.js';
import type { ResumeReport, Run } from '../../../src/bench/resume-report.js';

interface Sample {
  readonly scenario: string;
  readonly cache: 'warm' | 'cold';
  readonly ramMib?: number;
  readonly round?: number;
  readonly resumeMs: number;
  readonly completeMs: number | null;
  readonly demandFaults?: number;
  readonly vcpuBlockedMs?: number;
  readonly hotPackBytes?: number;
}

export function sampleRun({
  demandFaults,
  vcpuBlockedMs = 3,
  ramMib = 1024,
  round = 1,
  ...times
}: Sample): Run {
  const answeredMs = Array.from({ length: 2000 }, (_, at) => times.resumeMs + at);
  const answers = { answeredMs, latencyMs: answeredMs.map((atMs) => 1 + (atMs % 7)) };
  const observedMs = times.resumeMs + 2000;
  const perceived = perceive({ ...answers, observedMs, referencePerS: 1000 });
  return {
    ...times,
    ramMib,
    round,
    orderedToSpawnMs: 2,
    ...(demandFaults !== undefined && {
      transfer: {
        path: 'direct',
        demandFaults,
        withheldFaults: 0,
        prefetchedPages: 100,
        prediction: { pages: 100, usedPages: 75 },
        transferredBytes: 1 << 20,
        faultUs: { p50: 5, p90: 20, p99: 90, max: 4000 },
        faultPercentilesUs: Array.from({ length: 101 }, (_, percent) => 1 + percent),
        vcpuBlockedMs,
        processPeakBytes: 64 << 20,
      },
    }),
    storageReadBytes: times.cache === 'cold' ? 5 << 20 : null,
    observedMs,
    resident: [
      { ms: 10, residentBytes: 1 << 20 },
      { ms: times.resumeMs, residentBytes: 200 << 20 },
    ],
    answers: { ping: answers, memcached: answers, http: { answeredMs: [], latencyMs: [] } },
    perceived: {
      ping: perceived,
      memcached: perceived,
      http: perceive({ answeredMs: [], latencyMs: [], observedMs, referencePerS: 10 }),
    },
    later: { hugePageBytes: 0, memoryIntact: true, verifiedPagesPerS: 100_000 },
  };
}

const faultPath: ResumeReport['faultPath'] = [
  {
    stored: 'raw',
    round: 1,
    ramMib: 1024,
    idle: { count: 2000, p50Us: 5, p99Us: 20 },
    bareFaultP50Us: 3,
    loaded: { count: 1900, p99Us: 60 },
    bulkBytesPerS: 1.8e9,
    bareBytesPerS: 2e9,
  },
];

export function sampleReport(runs: readonly Run[], absences: ResumeReport['absences'] = []): ResumeReport {
  const ramMib = [...new Set(runs.map((run) => run.ramMib))];
  const summaries = summarize(runs);
  return {
    kind: 'vmckpt bench resume',
    version: 1,
    options: {
      ramMib,
      rounds: 2,
      seed: 1,
      scenarios: [...new Set([...runs, ...absences].map(({ scenario }) => scenario))],
      observeMs: 2000,
    },
    environment: {
      vmckpt: '0.1.0',
      node: 'v20',
      kernel: 'Linux <6>',
      distribution: null,
      cpuModel: 'a "CPU" & more',
      cpuCount: 2,
      memoryBytes: 1 << 30,
      transparentHugePages: null,
      isVirtual: true,
      qemu: '10.0',
      accelerator: 'tcg',
      diskReadBytesPerS: 1e9,
      loadAtStart: 0,
      loadAtEnd: 0.1,
      startedAt: '2026-11-21T00:00:00.000Z',
    },
    references: ramMib.map((each) => ({ ramMib: each, perS: { ping: 1000, memcached: 500, http: 10 } })),
    ...computeRatios({ runs, summaries, absences, sizesMib: ramMib, faultPath, diskReadBytesPerS: 1e9 }),
    faultPath,
    summaries,
    absences,
    runs: [...runs],
  };
}
