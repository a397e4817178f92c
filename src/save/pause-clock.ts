import type { QmpClient } from '../qemu/qmp.js';
import { roundMs } from '../timeline/clock.js';

/** Adds up the time between QEMU's STOP and RESUME events, by QEMU's own clock. */
export class PauseClock {
  #stoppedAtMs: number | undefined;
  #totalMs = 0;

  constructor(qmp: QmpClient) {
    qmp.on('STOP', ({ timestampMs }) => (this.#stoppedAtMs = timestampMs));
    qmp.on('RESUME', ({ timestampMs }) => {
      if (this.#stoppedAtMs !== undefined) this.#totalMs += timestampMs - this.#stoppedAtMs;
      this.#stoppedAtMs = undefined;
    });
  }

  totalMs(): number {
    return roundMs(this.#totalMs);
  }
}
