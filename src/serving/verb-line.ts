/**
 * The transfer process's end of its line to the verb, which says three things in this order: that QEMU answers, what to do,
 * and where the background waits for it, that it may begin. A successor has the line too, as long as the verb lives.
 */
import { Socket } from 'node:net';
import { VmckptError } from '../errors.js';
import { readLines } from '../util/lines.js';
import { parse } from '../util/schema.js';
import { MAX_MESSAGE_BYTES, type TransferMessage } from '../serving-protocol/messages.js';
import { orderSchema, type TransferOrder } from '../serving-protocol/order.js';
import { VERB_FD } from '../serving-protocol/descriptors.js';

export class VerbLine {
  readonly #socket = new Socket({ fd: VERB_FD });
  readonly #words: string[] = [];
  #ended = false;
  #onChange: () => void = () => undefined;

  constructor() {
    readLines(this.#socket, {
      maxLineBytes: MAX_MESSAGE_BYTES,
      onLine: (word) => {
        this.#words.push(word);
        this.#onChange();
      },
      onEnd: () => {
        this.#ended = true;
        this.#onChange();
      },
    });
    this.#socket.unref();
  }

  /** Resolves when QEMU answers on its monitors. @throws VmckptError TRANSFER_FAILED when the verb ends before */
  async qemuAnswers(): Promise<void> {
    await this.#required();
  }

  /** What to do. @throws VmckptError TRANSFER_FAILED when the verb ends before it has said so */
  async nextOrder(): Promise<TransferOrder> {
    return parse(orderSchema, JSON.parse(await this.#required()));
  }

  /** Resolves when the verb says one word more, or ends. */
  async nextWord(): Promise<string | undefined> {
    this.#socket.ref();
    while (this.#words.length === 0 && !this.#ended)
      await new Promise<void>((resolve) => (this.#onChange = resolve));
    this.#socket.unref();
    return this.#words.shift();
  }

  /** Resolves when the message is on its way, or the verb is gone. */
  async tell(message: TransferMessage): Promise<void> {
    if (!this.#socket.writable) return;
    await new Promise<void>((resolve) => {
      this.#socket.write(`${JSON.stringify(message)}\n`, () => resolve());
    });
  }

  async #required(): Promise<string> {
    const word = await this.nextWord();
    if (word !== undefined) return word;
    throw new VmckptError('TRANSFER_FAILED', 'the verb ended before it had said what to do');
  }
}
