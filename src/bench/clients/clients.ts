/** Runs the clients of one measurement in a thread of their own. */
import { Worker } from 'node:worker_threads';
import { distFile } from '../../util/package-paths.js';
import { withDeadline } from '../../util/deadline.js';
import type { ClientOrder } from '../client-worker.js';
import type { ClientAnswers, ClientJob } from './load.js';

const THREAD_TIMEOUT_MS = 10_000;

export class Clients {
  readonly #worker: Worker;
  readonly #failed: Promise<never>;

  private constructor(worker: Worker) {
    this.#worker = worker;
    this.#failed = new Promise((_resolve, reject) => {
      worker.once('error', reject);
      worker.once('exit', () => reject(new Error('the thread of the clients has ended')));
    });
    this.#failed.catch(() => undefined); // raced with every answer
  }

  /** Returns when their thread runs; they do nothing yet. */
  static async prepare(job: ClientJob): Promise<Clients> {
    const worker = new Worker(distFile('bench/client-worker.js'), { workerData: job });
    const clients = new Clients(worker);
    await clients.#soon(new Promise<void>((resolve) => worker.once('online', resolve)));
    return clients;
  }

  begin(): void {
    this.#order('begin');
  }

  /** Ends them, and returns what they saw. */
  async end(): Promise<ClientAnswers> {
    const answers = new Promise<ClientAnswers>((resolve) => this.#worker.once('message', resolve));
    this.#order('end');
    return this.#soon(answers);
  }

  /** Ends them without a word. */
  async terminate(): Promise<void> {
    await this.#worker.terminate();
  }

  #soon<T>(said: Promise<T>): Promise<T> {
    return withDeadline(Promise.race([said, this.#failed]), {
      what: 'the thread of the clients',
      timeoutMs: THREAD_TIMEOUT_MS,
    });
  }

  #order(order: ClientOrder): void {
    this.#worker.postMessage(order);
  }
}
