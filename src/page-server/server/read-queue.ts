/**
 * The reads of a connection: an earlier lane first, piece by piece, a few pieces at a time, so that a demanded extent waits
 * for no more than those, and memory does not grow with what is asked for.
 */
import { VmckptError } from '../../errors.js';
import { LANES, type Lane } from '../contracts.js';
import { MAX_PIECE_BYTES } from '../wire/limits.js';

/** Pieces that are read or sent at a time. */
const WORKERS = 4;

export interface ReadJob {
  readonly id: number;
  readonly lane: Lane;
  readonly length: number;
  /** performance.now() after which the answer is of no use. */
  readonly endMs: number;
  readonly read: (from: number, length: number) => Promise<Uint8Array>;
  /** Sends a piece when there is room for it. */
  readonly deliver: (piece: Uint8Array, isLast: boolean) => Promise<void>;
  readonly fail: (error: unknown) => void;
}

interface Waiting {
  readonly job: ReadJob;
  readonly from: number;
}

export class ReadQueue {
  readonly #lanes = new Map<Lane, Waiting[]>(LANES.map((lane) => [lane, []]));
  readonly #cancelled = new Set<number>();
  readonly #underWay = new Set<number>();
  #workers = 0;

  /** Reads that are not answered yet. */
  get size(): number {
    return this.#underWay.size;
  }

  add(job: ReadJob): void {
    this.#underWay.add(job.id);
    this.#lanes.get(job.lane)!.push({ job, from: 0 });
    if (this.#workers < WORKERS) void this.#work();
  }

  /** Does nothing for a read that was answered, or never asked for. */
  cancel(id: number): void {
    if (this.#underWay.has(id)) this.#cancelled.add(id);
  }

  async #work(): Promise<void> {
    this.#workers++;
    for (let next = this.#next(); next !== undefined; next = this.#next()) {
      try {
        await this.#advance(next);
      } catch (error) {
        this.#settle(next.job.id);
        next.job.fail(error);
      }
    }
    this.#workers--;
  }

  #next(): Waiting | undefined {
    for (const lane of LANES) {
      const next = this.#lanes.get(lane)!.shift();
      if (next !== undefined) return next;
    }
    return undefined;
  }

  async #advance({ job, from }: Waiting): Promise<void> {
    if (this.#cancelled.has(job.id)) throw new VmckptError('SOURCE_UNAVAILABLE', 'the read was cancelled');
    if (performance.now() > job.endMs)
      throw new VmckptError('SOURCE_UNAVAILABLE', 'the deadline of the read has passed');
    const length = Math.min(MAX_PIECE_BYTES, job.length - from);
    const piece = await job.read(from, length);
    const isLast = piece.length < length || from + length === job.length;
    if (isLast) this.#settle(job.id);
    await job.deliver(piece, isLast);
    if (!isLast) this.#lanes.get(job.lane)!.unshift({ job, from: from + length });
  }

  #settle(id: number): void {
    this.#underWay.delete(id);
    this.#cancelled.delete(id);
  }
}
