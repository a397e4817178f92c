/**
 * A connection to the guest's memcached with several requests under way. The length of every answer is known when
 * its request is sent, so answers are told apart by counting bytes.
 */
import { nowMs } from '../../timeline/clock.js';
import { knock } from './knock.js';
import type { AnswerLog } from './load.js';

interface Request {
  readonly sentAtMs: number;
  readonly answerBytes: number;
}

interface PipelineOptions {
  readonly port: number;
  readonly log: AnswerLog;
  /** More are not sent: what a stalled guest has missed must not come in a burst afterwards. */
  readonly maxOutstanding: number;
  readonly signal: AbortSignal;
}

export class Pipeline {
  readonly #options: PipelineOptions;
  readonly #outstanding: Request[] = [];
  #receivedBytes = 0;
  #send: ((command: string) => void) | undefined;
  /** How long the guest's answer to the probe is. */
  probeAnswerBytes = 0;

  constructor(options: PipelineOptions) {
    this.#options = options;
  }

  /** Returns when the guest has answered for the first time; from then on a broken connection is made anew. */
  async open(): Promise<void> {
    const { port, log, signal } = this.#options;
    const { socket, sentAtMs, answeredAtMs, probeAnswerBytes } = await knock(port, signal);
    log.add(sentAtMs, answeredAtMs);
    this.probeAnswerBytes = probeAnswerBytes;
    this.#outstanding.length = 0;
    this.#receivedBytes = 0;
    this.#send = (command) => socket.write(command);
    socket.on('data', (bytes) => this.#receive(bytes.length)).resume();
    socket.once('close', () => {
      this.#send = undefined;
      if (!signal.aborted) this.open().catch(() => undefined); // rejects only when the measurement ends
    });
    signal.addEventListener('abort', () => socket.destroy(), { once: true });
  }

  /** Sends unless too much is under way; says whether it did. */
  request(command: string, answerBytes: number): boolean {
    if (this.#send === undefined || this.#outstanding.length >= this.#options.maxOutstanding) return false;
    this.#outstanding.push({ sentAtMs: nowMs(), answerBytes });
    this.#send(command);
    return true;
  }

  #receive(bytes: number): void {
    const answeredAtMs = nowMs();
    this.#receivedBytes += bytes;
    for (;;) {
      const [oldest] = this.#outstanding;
      if (oldest === undefined || this.#receivedBytes < oldest.answerBytes) return;
      this.#receivedBytes -= oldest.answerBytes;
      this.#outstanding.shift();
      this.#options.log.add(oldest.sentAtMs, answeredAtMs);
    }
  }
}
