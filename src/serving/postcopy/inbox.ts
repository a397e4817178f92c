/** What QEMU has said on the return path, for whoever waits for it: in any order, and before it is waited for. */
import type { ReturnPathMessage } from '../../migration-stream/return-path.js';
import { withDeadline } from '../../util/deadline.js';

const ANSWER_TIMEOUT_MS = 30_000;

export type MessageOf<Type extends ReturnPathMessage['type']> = Extract<ReturnPathMessage, { type: Type }>;

interface Waiting {
  readonly matches: (message: ReturnPathMessage) => boolean;
  readonly resolve: (message: ReturnPathMessage) => void;
}

export class Inbox {
  #waiting: Waiting[] = [];
  #seen: ReturnPathMessage[] = [];

  put(message: ReturnPathMessage): void {
    const awaited = this.#waiting.find(({ matches }) => matches(message));
    if (awaited === undefined) {
      this.#seen.push(message);
      return;
    }
    this.#waiting = this.#waiting.filter((each) => each !== awaited);
    awaited.resolve(message);
  }

  /** Takes the first message of that kind. @throws VmckptError TIMEOUT; the signal's reason */
  async take<Type extends ReturnPathMessage['type']>(
    type: Type,
    accepts: (message: MessageOf<Type>) => boolean,
    signal: AbortSignal,
  ): Promise<MessageOf<Type>> {
    const matches = (message: ReturnPathMessage): message is MessageOf<Type> =>
      message.type === type && accepts(message as MessageOf<Type>);
    const early = this.#seen.find(matches);
    if (early !== undefined) {
      this.#seen = this.#seen.filter((message) => message !== early);
      return early;
    }
    const arrived = new Promise<ReturnPathMessage>((resolve) => this.#waiting.push({ matches, resolve }));
    const message = await withDeadline(arrived, {
      what: `QEMU's ${type} on the return path`,
      timeoutMs: ANSWER_TIMEOUT_MS,
      signal,
    });
    return message as MessageOf<Type>;
  }
}
