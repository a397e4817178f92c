/** The transfer process's end of its line to the verb. A successor has it too, as long as the verb lives. */
import { once } from 'node:events';
import { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { VmckptError } from '../errors.js';
import { parse } from '../util/schema.js';
import { orderSchema, VERB_FD, type TransferMessage, type TransferOrder } from './transfer-job.js';

export class VerbLine {
  readonly #socket = new Socket({ fd: VERB_FD });

  constructor() {
    this.#socket.on('error', () => undefined); // the verb may go at any time
    this.#socket.unref();
  }

  /** What to do. @throws VmckptError TRANSFER_FAILED when the verb ends before it has said so */
  async nextOrder(): Promise<TransferOrder> {
    const lines = createInterface({ input: this.#socket });
    this.#socket.ref();
    const over = once(lines, 'close').then(() => {
      throw new VmckptError('TRANSFER_FAILED', 'the verb ended before it had said what to do');
    });
    over.catch(() => undefined); // once the order is there the verb may go
    const [text] = (await Promise.race([once(lines, 'line'), over])) as [string];
    lines.close();
    this.#socket.unref();
    return parse(orderSchema, JSON.parse(text));
  }

  /** Resolves when the verb says anything more, or ends. */
  async nextWord(): Promise<void> {
    if (this.#socket.destroyed) return;
    await new Promise<void>((resolve) => {
      this.#socket.once('data', () => resolve()).once('close', () => resolve());
      this.#socket.ref().resume();
    });
    this.#socket.unref();
  }

  /** Resolves when the message is on its way, or the verb is gone. */
  async tell(message: TransferMessage): Promise<void> {
    if (!this.#socket.writable) return;
    await new Promise<void>((resolve) => {
      this.#socket.write(`${JSON.stringify(message)}\n`, () => resolve());
    });
  }
}
