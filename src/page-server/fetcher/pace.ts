/**
 * How fast a source answers, measured as it does, and what follows from that: how much may be under way in bulk, so that the
 * link is busy and nothing queues in front of a demanded range (bandwidth times round trip, and a little more), and how
 * many neighbours of a demanded range cost next to nothing.
 */

const MIN_CREDIT_BYTES = 256 << 10;
const MAX_CREDIT_BYTES = 64 << 20;
/** Of bandwidth times round trip. */
const CREDIT_GAIN = 1.25;
/** While the rate still grows, it is asked for twice as much. */
const STARTUP_GAIN = 2;
const STARTUP_GROWTH = 1.25;
/** Rounds without growth that end the start. */
const STARTUP_ROUNDS = 3;
/** Rates and round trips are believed for so many rounds of measurement. */
const MEMORY_ROUNDS = 32;
const MIN_ROUND_MS = 10;
const MIN_CHUNK_BYTES = 64 << 10;
const MAX_CHUNK_BYTES = 8 << 20;
/** Shares of what may be under way. */
const CHUNK_SHARE = 1 / 4;
const NEIGHBOUR_SHARE = 1 / 8;
const INITIAL_ROUND_TRIP_MS = 10;

export class Pace {
  /** The latest ones. */
  readonly #rates: number[] = [];
  readonly #roundTrips: number[] = [];
  #startupRoundsLeft = STARTUP_ROUNDS;
  #bestRate = 0;
  #roundStartMs = performance.now();
  #roundBytes = 0;
  /** Of demanded ranges. */
  #meanMs = INITIAL_ROUND_TRIP_MS;
  #deviationMs = INITIAL_ROUND_TRIP_MS / 2;

  /** A demanded range has come, in this time. */
  onDemanded(tookMs: number): void {
    this.#deviationMs += (Math.abs(tookMs - this.#meanMs) - this.#deviationMs) / 4;
    this.#meanMs += (tookMs - this.#meanMs) / 8;
    remember(this.#roundTrips, tookMs);
  }

  /** Bulk has come. @param isBusy whether as much was under way as may be */
  onBulk(bytes: number, isBusy: boolean, nowMs = performance.now()): void {
    this.#roundBytes += bytes;
    const tookMs = nowMs - this.#roundStartMs;
    if (tookMs < Math.max(this.roundTripMs, MIN_ROUND_MS)) return;
    const rate = this.#roundBytes / tookMs;
    this.#roundBytes = 0;
    this.#roundStartMs = nowMs;
    // A round in which there was little to do says nothing.
    if (isBusy || rate > this.rate) remember(this.#rates, rate);
    if (this.#startupRoundsLeft === 0 || !isBusy) return;
    if (rate > this.#bestRate * STARTUP_GROWTH) this.#startupRoundsLeft = STARTUP_ROUNDS;
    else this.#startupRoundsLeft--;
    this.#bestRate = Math.max(this.#bestRate, rate);
  }

  /** After a pause, in which nothing was to be done. */
  restart(nowMs = performance.now()): void {
    this.#roundStartMs = nowMs;
    this.#roundBytes = 0;
  }

  /** Bytes for each millisecond. */
  get rate(): number {
    return Math.max(0, ...this.#rates);
  }

  get roundTripMs(): number {
    return this.#roundTrips.length === 0 ? INITIAL_ROUND_TRIP_MS : Math.min(...this.#roundTrips);
  }

  /** Bytes of bulk that may be under way. */
  get creditBytes(): number {
    const gain = this.#startupRoundsLeft > 0 ? STARTUP_GAIN : CREDIT_GAIN;
    const wantedBytes = gain * this.rate * this.roundTripMs;
    return Math.min(Math.max(wantedBytes, MIN_CREDIT_BYTES), MAX_CREDIT_BYTES);
  }

  /** The most that one read in bulk asks for. */
  get chunkBytes(): number {
    return Math.min(Math.max(this.creditBytes * CHUNK_SHARE, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES);
  }

  /** What may be added to a demanded range. */
  get neighbourBytes(): number {
    return this.rate * this.roundTripMs * NEIGHBOUR_SHARE;
  }

  /** A demanded range that takes longer is late. */
  get lateAfterMs(): number {
    return this.#meanMs + 4 * this.#deviationMs + 1;
  }
}

function remember(values: number[], value: number): void {
  values.push(value);
  if (values.length > MEMORY_ROUNDS) values.shift();
}
