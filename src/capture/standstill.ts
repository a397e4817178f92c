/** Stops a VM for moments, and lets it run again. */
import * as v from 'valibot';
import type { QmpClient } from '../qemu/qmp.js';

/** QEMU waits for block I/O under way. */
const STOP_TIMEOUT_MS = 60_000;

const Status = v.object({ status: v.string() });

/** What stands where a VM that a dead process has stopped is found again. */
export interface PauseNotes {
  /** Called before the VM stops. */
  readonly stopping: () => void;
  /** Called when it runs again, or was stopped by somebody else. */
  readonly running: () => void;
}

export interface Stopped<A> {
  /** QEMU's RunState: `paused` unless the VM was stopped by something else before. */
  readonly status: string;
  /** It ran, and runs on afterwards. */
  readonly isOurs: boolean;
  /** Of what was sent to QEMU together with `stop`. */
  readonly answer: Promise<A>;
}

export class Standstill {
  readonly #qmp: QmpClient;
  readonly #notes: PauseNotes;
  #roundTrips = 0;

  constructor(qmp: QmpClient, notes: PauseNotes) {
    this.#qmp = qmp;
    this.#notes = notes;
  }

  /** How often this side has waited for QEMU's monitor while the VM stood still. */
  get roundTrips(): number {
    return this.#roundTrips;
  }

  /**
   * Stops the VM, and lets it run when `act` is done. After an error it is left stopped, and the notes tell so.
   * @param ask sends a command right behind `stop`, in the same round trip
   */
  async during<A, T>(ask: () => Promise<A>, act: (stopped: Stopped<A>) => Promise<T>): Promise<T> {
    const qmp = this.#qmp;
    let isOurs = false;
    const forget = qmp.on('STOP', () => (isOurs = true));
    try {
      this.#notes.stopping();
      const stop = qmp.execute('stop', {}, { timeoutMs: STOP_TIMEOUT_MS });
      const query = qmp.query(Status, 'query-status', {}, { timeoutMs: STOP_TIMEOUT_MS });
      const answer = ask();
      answer.catch(() => undefined); // awaited by `act`, unless QEMU does not even stop
      const [, { status }] = await Promise.all([stop, query]);
      this.#roundTrips++;
      if (!isOurs) this.#notes.running();
      const result = await act({ status, isOurs, answer });
      if (isOurs) await this.#run();
      return result;
    } finally {
      forget();
    }
  }

  async #run(): Promise<void> {
    await this.#qmp.execute('cont');
    this.#roundTrips++;
    this.#notes.running();
  }
}
