/** Service times of demand faults: exact up to a bound, a uniform sample beyond it (Vitter 1985, algorithm R). */
const MAX_SAMPLES = 1 << 16;

export interface FaultTimes {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
}

export class FaultRecorder {
  readonly #samplesUs = new Float64Array(MAX_SAMPLES);
  #count = 0;
  #totalUs = 0;
  #maxUs = 0;

  get count(): number {
    return this.#count;
  }

  get totalMs(): number {
    return this.#totalUs / 1000;
  }

  record(us: number): void {
    const at = this.#count < MAX_SAMPLES ? this.#count : Math.floor(Math.random() * (this.#count + 1));
    if (at < MAX_SAMPLES) this.#samplesUs[at] = us;
    this.#count++;
    this.#totalUs += us;
    this.#maxUs = Math.max(this.#maxUs, us);
  }

  /** Percentiles in microseconds; all 0 when nothing was recorded. */
  summary(): FaultTimes {
    const percentiles = this.percentilesUs();
    const at = (percent: number) => percentiles[percent]!;
    return { p50: at(50), p90: at(90), p99: at(99), max: round(this.#maxUs) };
  }

  /** From the 0th to the 100th; all 0 when nothing was recorded. */
  percentilesUs(): number[] {
    const sorted = this.#samplesUs.slice(0, Math.min(this.#count, MAX_SAMPLES)).sort();
    const at = (percent: number) => round(sorted[Math.floor((percent / 100) * (sorted.length - 1))] ?? 0);
    return Array.from({ length: 101 }, (_, percent) => at(percent));
  }
}

function round(us: number): number {
  return Math.round(us * 10) / 10;
}
