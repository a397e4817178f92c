/**
 * A few worker threads that run one script (built, in dist/) and answer requests in order. Bytes travel in shared
 * memory given as `workerData`; messages carry only which.
 */
import path from 'node:path';
import { Worker, parentPort, threadId } from 'node:worker_threads';
import { debug } from '../util/debug.js';
import { distFile } from '../util/package-paths.js';

interface Pending<Reply> {
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
}

interface Member<Reply> {
  readonly worker: Worker;
  readonly ended: Promise<void>;
  /** In the order in which the answers come. */
  readonly pending: Pending<Reply>[];
}

/** Asks a thread to end. */
const END = null;

type Answer<Reply> = { readonly reply: Reply } | { readonly failure: { message: string; code: unknown } };

/** Keeps a thread's heap small: its work is in shared memory. */
const RESOURCE_LIMITS = { maxYoungGenerationSizeMb: 4, maxOldGenerationSizeMb: 64 };

export class WorkerTeam<Request, Reply> {
  readonly #members: Member<Reply>[] = [];
  #failure: Error | undefined;

  /** `script` is a file below dist/; every thread gets the same `workerData`. */
  constructor(script: string, { threads, workerData }: { threads: number; workerData: unknown }) {
    for (let index = 0; index < threads; index++) {
      // No flags of the process: some of them, like --input-type, keep a thread from starting.
      const worker = new Worker(distFile(script), {
        workerData,
        execArgv: [],
        resourceLimits: RESOURCE_LIMITS,
      });
      const ended = new Promise<void>((resolve) => worker.once('exit', () => resolve()));
      const member: Member<Reply> = { worker, ended, pending: [] };
      worker.on('message', (answer: Answer<Reply>) => settle(member.pending.shift(), answer));
      worker.once('error', (error) => this.#fail(error));
      worker.once('exit', () => this.#fail(new Error(`a thread of ${script} has ended`)));
      this.#members.push(member);
    }
  }

  /** Gives the request to the least busy thread. Rejects with the thread's error, its `code` kept. */
  run(request: Request): Promise<Reply> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const member = this.#members.reduce((a, b) => (b.pending.length < a.pending.length ? b : a));
    return new Promise((resolve, reject) => {
      member.pending.push({ resolve, reject });
      member.worker.postMessage(request);
    });
  }

  /**
   * Ends the threads once they have answered; there are few requests, and none waits for anything but the disk. They
   * end by themselves: terminate() in the middle of a native call now and then aborts the whole process.
   */
  async close(): Promise<void> {
    this.#failure ??= new Error('the threads were ended');
    for (const { worker } of this.#members) worker.postMessage(END);
    await Promise.all(this.#members.map(({ ended }) => ended));
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { pending } of this.#members) for (const { reject } of pending.splice(0)) reject(error);
  }
}

function settle<Reply>(pending: Pending<Reply> | undefined, answer: Answer<Reply>): void {
  if ('reply' in answer) pending?.resolve(answer.reply);
  else pending?.reject(Object.assign(new Error(answer.failure.message), { code: answer.failure.code }));
}

/** The thread's side: answers every request with what `handle` returns or throws. */
export function answerRequests<Request, Reply>(handle: (request: Request) => Reply): void {
  const port = parentPort;
  if (port === null) throw new Error('this script runs in a worker thread only');
  const name = `thread ${threadId} (${path.basename(process.argv[1] ?? '', '.js')})`;
  let answered = 0;
  debug('worker', () => `${name} begins`);
  port.on('message', (request: Request | typeof END) => {
    if (request === END) {
      debug('worker', () => `${name} ends after ${answered} requests`);
      return port.close();
    }
    port.postMessage(answer(() => handle(request)));
    answered++;
  });
}

function answer<Reply>(handle: () => Reply): Answer<Reply> {
  try {
    return { reply: handle() };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    return { failure: { message: error instanceof Error ? error.message : String(error), code } };
  }
}
