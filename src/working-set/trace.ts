/**
 * What a restore observed: its demand faults with their times, what was prefetched, and what was predicted but
 * withheld. It holds facts about pages only; evidence.ts and histogram.ts interpret them.
 */
import type { PageRuns } from './runs.js';

/** Faults beyond this are counted, not kept: 4 GiB of single pages. */
export const MAX_TRACE_FAULTS = 1 << 20;
/** Runs beyond this are left out of a trace. */
export const MAX_TRACE_RUNS = 1 << 18;
const MAX_TIME_US = 0xffff_ffff;

export interface RestoreTrace {
  /** Wall clock, milliseconds since 1970. */
  readonly resumedAtMs: number;
  /** Random, 64 bits: identifies the trace. */
  readonly runId: bigint;
  readonly generation: number;
  /** Of the whole RAM. */
  readonly pageCount: number;
  /** The pages that faulted, ascending and distinct. */
  readonly faultPages: Uint32Array;
  /** When each of them faulted first, in microseconds since the resume; at most 2³² − 1. */
  readonly faultTimesUs: Uint32Array;
  /** Faults that came when the trace was full. */
  readonly cutFaultCount: number;
  /** The set of pages that were prefetched, before or after the resume. */
  readonly prefetched: PageRuns;
  /** The set of pages that were predicted, but left for the background to install last. */
  readonly withheld: PageRuns;
  /** The plan's phase: which share of the set was withheld (see plan.ts). */
  readonly explorePhase: number;
  /** The VM ran, and all of its memory was installed. Otherwise the absence of a fault means nothing. */
  readonly isComplete: boolean;
  /** Every page was requested by itself, so every touched page has faulted. The times are those of a slower VM. */
  readonly isExact: boolean;
}

export type TraceContext = Omit<RestoreTrace, 'faultPages' | 'faultTimesUs' | 'cutFaultCount'>;

/** Whether the absence of a fault on a page proves that the page was not touched. */
export function tellsAbsence({ isComplete, cutFaultCount }: RestoreTrace): boolean {
  return isComplete && cutFaultCount === 0;
}

/** Collects faults in the order in which they come. */
export class TraceRecorder {
  readonly #maxFaults: number;
  #pages = new Uint32Array(1024);
  #timesUs = new Uint32Array(1024);
  #count = 0;
  #cutCount = 0;

  constructor(maxFaults = MAX_TRACE_FAULTS) {
    this.#maxFaults = Math.min(maxFaults, MAX_TRACE_FAULTS);
  }

  /** For real demand faults only, not for pages installed for other reasons. Times do not decrease. */
  fault(page: number, sinceResumeUs: number): void {
    if (this.#count === this.#maxFaults) {
      this.#cutCount++;
      return;
    }
    if (this.#count === this.#pages.length) this.#grow();
    this.#pages[this.#count] = page;
    this.#timesUs[this.#count++] = Math.min(Math.max(0, sinceResumeUs), MAX_TIME_US);
  }

  finish(context: TraceContext): RestoreTrace {
    // A page number and its position form one exact double (32 + 20 bits), so sorting keeps them together.
    const keys = Float64Array.from(
      this.#pages.subarray(0, this.#count),
      (page, i) => page * 2 ** 20 + i,
    ).sort();
    const pages = keys.map((key) => Math.floor(key / 2 ** 20));
    const firsts = [...keys.keys()].filter((i) => i === 0 || pages[i] !== pages[i - 1]);
    return {
      ...context,
      prefetched: bounded(context.prefetched),
      withheld: bounded(context.withheld),
      faultPages: Uint32Array.from(firsts, (i) => pages[i]!),
      faultTimesUs: Uint32Array.from(firsts, (i) => this.#timesUs[keys[i]! % 2 ** 20]!),
      cutFaultCount: this.#cutCount,
    };
  }

  #grow(): void {
    const [pages, timesUs] = [this.#pages, this.#timesUs];
    this.#pages = new Uint32Array(this.#count * 2);
    this.#timesUs = new Uint32Array(this.#count * 2);
    this.#pages.set(pages);
    this.#timesUs.set(timesUs);
  }
}

function bounded(runs: PageRuns): PageRuns {
  return runs.subarray(0, 2 * MAX_TRACE_RUNS);
}
