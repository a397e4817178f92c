/**
 * What the clients do, and what they report. All of it is offered at a bounded rate: the guest shares the host's
 * processors with the restore, and clients that take all they can get would measure each other.
 */
import type { MemcachedLoad } from '../workloads.js';

export const CLIENT_NAMES = ['ping', 'memcached', 'http'] as const;
export type ClientName = (typeof CLIENT_NAMES)[number];

export interface ClientPorts {
  readonly memcached: number;
  readonly http: number;
}

export interface ClientJob {
  readonly ports: ClientPorts;
  /** What memcached holds. */
  readonly values: Omit<MemcachedLoad, 'port'>;
  readonly seed: number;
  /** How many gets a second are offered; 500 by default. */
  readonly getsPerS?: number;
  /** No client downloads files. */
  readonly withoutDownloads?: true;
}

/** The times of all answers to one client, in order: wall clock in ms. */
export interface Answers {
  readonly sentAtMs: readonly number[];
  readonly answeredAtMs: readonly number[];
}

export type ClientAnswers = Readonly<Record<ClientName, Answers>>;

export class AnswerLog implements Answers {
  readonly sentAtMs: number[] = [];
  readonly answeredAtMs: number[] = [];

  add(sentAtMs: number, answeredAtMs: number): void {
    this.sentAtMs.push(sentAtMs);
    this.answeredAtMs.push(answeredAtMs);
  }
}
