/** Stops a VM for moments, and lets it run again. */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
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
   * Stops the VM, and lets it run when `act` is done. After an error it is left stopped, and the notes tell so. What was
   * asked is over when this returns.
   * @param ask sends a command right behind `stop`, in the same round trip
   * @throws VmckptError VM_STATE when somebody else let it run, or reset it, meanwhile: what `act` found is worthless
   */
  async during<A, T>(ask: () => Promise<A>, act: (stopped: Stopped<A>) => Promise<T>): Promise<T> {
    const qmp = this.#qmp;
    const events: string[] = [];
    let answer: Promise<A> | undefined;
    const forget = qmp.on('*', ({ name }) => void events.push(name));
    try {
      this.#notes.stopping();
      const stop = qmp.execute('stop', {}, { timeoutMs: STOP_TIMEOUT_MS });
      const query = qmp.query(Status, 'query-status', {}, { timeoutMs: STOP_TIMEOUT_MS });
      answer = ask();
      answer.catch(() => undefined); // awaited by `act`, unless that or `stop` fails before
      const [, { status }] = await Promise.all([stop, query]);
      this.#roundTrips++;
      const since = events.indexOf('STOP') + 1;
      const isOurs = since > 0;
      if (!isOurs) this.#notes.running();
      this.#refuseDisturbed(events.slice(since), { ownResumes: 0 });
      const result = await act({ status, isOurs, answer });
      this.#refuseDisturbed(events.slice(since), { ownResumes: 0 });
      const { status: last } = await (isOurs ? this.#run() : qmp.query(Status, 'query-status'));
      this.#refuseDisturbed(events.slice(since), { ownResumes: isOurs && last !== 'running' ? 1 : 0 });
      return result;
    } finally {
      forget();
      await Promise.allSettled([answer]);
    }
  }

  /** @returns the state just before */
  async #run(): Promise<v.InferOutput<typeof Status>> {
    // Events of others reach this side before the answer to the query does.
    const query = this.#qmp.query(Status, 'query-status');
    const [before] = await Promise.all([query, this.#qmp.execute('cont')]);
    this.#roundTrips++;
    this.#notes.running();
    return before;
  }

  /** A VM that somebody else let run is theirs: it stays as they have it. One that was reset is still to be run. */
  #refuseDisturbed(events: readonly string[], { ownResumes }: { readonly ownResumes: number }): void {
    const isRun = events.filter((name) => name === 'RESUME').length > ownResumes;
    if (isRun) this.#notes.running();
    if (!isRun && !events.includes('RESET')) return;
    const what = isRun ? 'another program let the VM run' : 'the VM was reset';
    throw new VmckptError('VM_STATE', `${what} in the pause in which it was saved`, {
      hint: 'Save it again when no other program stops, continues or resets it.',
    });
  }
}
