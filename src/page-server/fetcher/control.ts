/** The fetcher's end of a connection: messages.ts describes the conversation. */
import type { Socket } from 'node:net';
import { VmckptError } from '../../errors.js';
import { parseJson } from '../../util/json-file.js';
import { readLines } from '../../util/lines.js';
import type { Attachment } from './attachment.js';
import type { Fetcher } from './fetcher.js';
import { MAX_LINE_BYTES, requestSchema, type Answer, type AttachRequest, type Request } from './messages.js';

const STATUS_EVERY_MS = 100;

export class Control {
  readonly #fetcher: Fetcher;
  readonly #socket: Socket;
  #attachment: Attachment | undefined;
  #isAttaching = false;
  #statusTimer: NodeJS.Timeout | undefined;

  /** @param onEnd called when the connection has ended and its generation is left */
  constructor(fetcher: Fetcher, socket: Socket, onEnd: () => void) {
    this.#fetcher = fetcher;
    this.#socket = socket;
    readLines(socket, {
      maxLineBytes: MAX_LINE_BYTES,
      onLine: (line) => this.#take(parseJson(requestSchema, line)),
      onEnd: () => void this.#end().then(onEnd),
    });
  }

  #take(request: Request | undefined): void {
    if (request === undefined) return void this.#socket.destroy();
    if (request.type === 'attach') return void this.#attach(request);
    if (this.#attachment === undefined) return void this.#socket.destroy();
    if (request.type === 'plan') this.#fetcher.plan(this.#attachment, request.ranges);
    else this.#fetcher.fill(this.#attachment);
  }

  async #attach(request: AttachRequest): Promise<void> {
    if (this.#isAttaching) return void this.#socket.destroy();
    this.#isAttaching = true;
    try {
      const attachment = await this.#fetcher.attach(request);
      if (this.#socket.destroyed) return await this.#fetcher.detach(attachment);
      this.#attachment = attachment;
      const { dir, name, number } = attachment.generation;
      this.#tell({ type: 'attached', dir, name, number });
      attachment.changed = () => this.#tellStatusSoon();
      this.#tellStatusSoon();
    } catch (error) {
      const { code, message, hint } =
        error instanceof VmckptError ? error : new VmckptError('FAILED', String(error));
      this.#tell({ type: 'failed', code, message, hint });
      this.#socket.end();
    }
  }

  #tellStatusSoon(): void {
    this.#statusTimer ??= setTimeout(() => {
      this.#statusTimer = undefined;
      const status = this.#attachment!.statusAt(performance.now(), this.#fetcher.isWaiting);
      this.#tell(status);
      // How long it has been away changes by itself.
      if (status.awayMs > 0) this.#tellStatusSoon();
    }, STATUS_EVERY_MS);
  }

  #tell(answer: Answer): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(answer)}\n`);
  }

  async #end(): Promise<void> {
    clearTimeout(this.#statusTimer);
    this.#socket.destroy();
    if (this.#attachment === undefined) return;
    this.#attachment.changed = () => undefined;
    await this.#fetcher.detach(this.#attachment);
  }
}
