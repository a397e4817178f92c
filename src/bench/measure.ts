/**
 * From a client's answers to what it perceived. Times are milliseconds since the restore was ordered; definitions and
 * their sources: docs/measurement.md.
 */
import { roundMs } from '../timeline/clock.js';

/** Throughput counts as back when one second of it reaches this share of the reference. */
export const BACK_SHARE = 0.9;
export const BACK_WINDOW_MS = 1_000;

export interface Perceived {
  readonly answerCount: number;
  /** Null when there was none. */
  readonly firstAnswerMs: number | null;
  /** The longest time without an answer, from the order to the end of the observation. */
  readonly longestGapMs: number;
  /** Null when throughput was not back within the observation. */
  readonly backMs: number | null;
  readonly latencyP50Ms: number | null;
  readonly latencyP99Ms: number | null;
}

export interface Observation {
  /** In ascending order. */
  readonly answeredMs: readonly number[];
  readonly latencyMs: readonly number[];
  /** How long the clients were watched. */
  readonly observedMs: number;
  /** What the same guest answers when it was restored eagerly from a warm cache and has settled. */
  readonly referencePerS: number;
}

export function perceive({ answeredMs, latencyMs, observedMs, referencePerS }: Observation): Perceived {
  const sorted = [...latencyMs].sort((a, b) => a - b);
  return {
    answerCount: answeredMs.length,
    firstAnswerMs: answeredMs[0] ?? null,
    longestGapMs: longestGap(answeredMs, observedMs),
    backMs: timeUntilBack(answeredMs, referencePerS),
    latencyP50Ms: quantile(sorted, 0.5),
    latencyP99Ms: quantile(sorted, 0.99),
  };
}

export function longestGap(answeredMs: readonly number[], observedMs: number): number {
  let longestMs = 0;
  let lastMs = 0;
  for (const atMs of [...answeredMs, observedMs]) {
    longestMs = Math.max(longestMs, atMs - lastMs);
    lastMs = atMs;
  }
  return roundMs(longestMs);
}

/** The time of the first answer that begins a second with enough answers. */
export function timeUntilBack(answeredMs: readonly number[], referencePerS: number): number | null {
  const wanted = Math.max(1, Math.ceil(referencePerS * BACK_SHARE * (BACK_WINDOW_MS / 1000)));
  for (let first = 0; first + wanted <= answeredMs.length; first++)
    if (answeredMs[first + wanted - 1]! - answeredMs[first]! < BACK_WINDOW_MS) return answeredMs[first]!;
  return null;
}

/** Answers per second from one instant to another. */
export function throughput(answeredMs: readonly number[], fromMs: number, toMs: number): number {
  const count = answeredMs.filter((atMs) => atMs >= fromMs && atMs < toMs).length;
  return toMs > fromMs ? (count * 1000) / (toMs - fromMs) : 0;
}

/** The nearest of ascending values; null if there are none. */
export function quantile(sorted: readonly number[], share: number): number | null {
  return sorted[Math.floor(share * (sorted.length - 1))] ?? null;
}

export interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly count: number;
}

/** Undefined if there are no values: a run that never got so far has no figure. */
export function spreadOf(values: readonly (number | null | undefined)[]): Spread | undefined {
  const sorted = values.filter((value) => value !== null && value !== undefined).sort((a, b) => a - b);
  if (sorted.length === 0) return undefined;
  const upper = sorted[sorted.length >> 1]!;
  const lower = sorted[(sorted.length - 1) >> 1]!;
  return { median: (upper + lower) / 2, min: sorted[0]!, max: sorted.at(-1)!, count: sorted.length };
}
