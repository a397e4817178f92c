/** One clock for our own marks and QEMU's event timestamps (wall clock, microseconds), so that both lie on one axis. */
import { performance } from 'node:perf_hooks';

/** Now, in milliseconds since the epoch, with sub-millisecond resolution. */
export function nowMs(): number {
  return performance.timeOrigin + performance.now();
}

/** Microsecond precision is all that a report needs. */
export function roundMs(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
