/**
 * Results go to stdout, progress and messages to stderr. With `--json` stdout carries one document and nothing else,
 * and each message is a line of JSON on stderr; an error is the last one. Control characters in any text (names in a
 * checkpoint, messages from QEMU) never reach the terminal.
 */
import type { VmckptError } from '../errors.js';
import { formatBytes } from '../util/units.js';
import { printableJson, printableLines } from './text.js';

const REDRAW_MS = 100;
const BAR_CELLS = 24;
const INDENT = ' '.repeat('vmckpt: '.length);

export interface OutputOptions {
  readonly json?: true;
  readonly quiet?: true;
  readonly verbose?: true;
  readonly color: boolean;
}

export class Output {
  readonly json: boolean;
  readonly #quiet: boolean;
  readonly #verbose: boolean;
  readonly #color: boolean;
  readonly #bars: boolean;
  #barShown = false;
  #lastDrawMs = 0;
  #startMs = 0;

  constructor({ json, quiet, verbose, color }: OutputOptions) {
    this.json = json === true;
    this.#quiet = quiet === true;
    this.#verbose = verbose === true;
    const terminal = process.stderr.isTTY;
    this.#color = color && terminal && process.env['NO_COLOR'] === undefined;
    this.#bars = terminal && !this.json && !this.#quiet;
  }

  /** The verb's result: `document` with --json, else `text`. */
  result(document: unknown, text: string): void {
    this.#clearBar();
    if (this.json) process.stdout.write(`${printableJson(document)}\n`);
    else if (text !== '') process.stdout.write(`${printableLines(text)}\n`);
  }

  message(text: string): void {
    if (this.#quiet) return;
    this.#clearBar();
    process.stderr.write(`${this.json ? printableJson({ message: text }) : indented(text)}\n`);
  }

  detail(text: string): void {
    if (this.#verbose) this.message(text);
  }

  /** A bar with bytes, rate and time left; only on a terminal, redrawn ten times a second. */
  progress(doneBytes: number, totalBytes: number): void {
    if (!this.#bars) return;
    const nowMs = performance.now();
    if (this.#startMs === 0) this.#startMs = nowMs;
    if (nowMs - this.#lastDrawMs < REDRAW_MS) return;
    this.#lastDrawMs = nowMs;
    const share = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);
    const elapsedS = (nowMs - this.#startMs) / 1000;
    const rate = elapsedS > 0 ? doneBytes / elapsedS : 0;
    const leftS = rate > 0 ? Math.ceil(Math.max(0, totalBytes - doneBytes) / rate) : 0;
    const full = Math.round(share * BAR_CELLS);
    const bar = '█'.repeat(full) + '░'.repeat(BAR_CELLS - full);
    const text = `${bar} ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}  ${formatBytes(rate)}/s  ${leftS} s left`;
    process.stderr.write(`\r\x1b[K${text}`);
    this.#barShown = true;
  }

  failure(error: VmckptError): void {
    this.#clearBar();
    const { code, message, hint } = error;
    if (this.json) {
      const document = { error: { code, message, ...(hint !== undefined && { hint }) } };
      process.stderr.write(`${printableJson(document)}\n`);
      return;
    }
    const label = this.#color ? '\x1b[31mvmckpt:\x1b[0m' : 'vmckpt:';
    process.stderr.write(`${label} ${indented(message)}\n`);
    if (hint !== undefined) process.stderr.write(`${INDENT}${indented(hint)}\n`);
    if (this.#verbose && error.cause instanceof Error)
      process.stderr.write(`${indented(error.cause.stack ?? '')}\n`);
  }

  #clearBar(): void {
    if (this.#barShown) process.stderr.write('\r\x1b[K');
    this.#barShown = false;
  }
}

/** Indents further lines, so that none of them looks like another message. */
function indented(text: string): string {
  return printableLines(text).replaceAll('\n', `\n${INDENT}`);
}
