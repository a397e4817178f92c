/** The serving process's end of its line to the verb. A successor has the line as well, as long as the verb lives. */
import { Socket } from 'node:net';
import { VmckptError } from '../errors.js';
import { VERB_FD } from '../serving-protocol/descriptors.js';
import {
  decodeVerbMessage,
  encode,
  MAX_MESSAGE_BYTES,
  type ServerMessage,
  type VerbMessage,
} from '../serving-protocol/messages.js';
import type { ServingOrder } from '../serving-protocol/order.js';
import { readLines } from '../util/lines.js';

type MessageOf<Type extends VerbMessage['type']> = Extract<VerbMessage, { type: Type }>;

export class VerbLine {
  readonly #socket = new Socket({ fd: VERB_FD });
  readonly #lines: string[] = [];
  #ended = false;
  #onChange: () => void = () => undefined;

  constructor() {
    readLines(this.#socket, {
      maxLineBytes: MAX_MESSAGE_BYTES,
      onLine: (line) => {
        this.#lines.push(line);
        this.#onChange();
      },
      onEnd: () => {
        this.#ended = true;
        this.#onChange();
      },
    });
    this.#socket.unref();
  }

  /** Resolves when QEMU answers on its monitors. @throws VmckptError TRANSFER_FAILED when the verb ends first */
  async qemuReady(): Promise<void> {
    await this.#required('qemu-ready');
  }

  /** @throws VmckptError TRANSFER_FAILED when the verb ends before it has sent its order */
  async order(): Promise<ServingOrder> {
    return (await this.#required('order')).order;
  }

  /** Resolves when the verb sends `fill`, or ends. */
  async toldToFill(): Promise<void> {
    await this.#next('fill');
  }

  /** Resolves when the message is sent, or the verb is gone. */
  async tell(message: ServerMessage): Promise<void> {
    if (!this.#socket.writable) return;
    await new Promise<void>((resolve) => {
      this.#socket.write(encode(message), () => resolve());
    });
  }

  async #required<Type extends VerbMessage['type']>(type: Type): Promise<MessageOf<Type>> {
    const message = await this.#next(type);
    if (message !== undefined) return message;
    throw new VmckptError('TRANSFER_FAILED', 'vmckpt restore was killed before it sent its order');
  }

  /** Undefined when the verb ends first. */
  async #next<Type extends VerbMessage['type']>(type: Type): Promise<MessageOf<Type> | undefined> {
    this.#socket.ref();
    while (this.#lines.length === 0 && !this.#ended)
      await new Promise<void>((resolve) => (this.#onChange = resolve));
    this.#socket.unref();
    const line = this.#lines.shift();
    if (line === undefined) return undefined;
    const message = decodeVerbMessage(line);
    if (message.type === type) return message as MessageOf<Type>;
    throw new VmckptError('TRANSFER_FAILED', `the verb sent ${message.type}, expected ${type}`);
  }
}
