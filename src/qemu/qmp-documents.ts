/**
 * The JSON documents of a QMP connection. Each is one line. From a monitor with `pretty=on` it is many lines: the
 * first is `{`, the last `}`, and those in between are indented.
 */
import { LineSplitter } from '../util/lines.js';

export const MAX_QMP_DOCUMENT_BYTES = 16 << 20;

export class DocumentSplitter {
  readonly #lines = new LineSplitter(MAX_QMP_DOCUMENT_BYTES);
  #begun: string[] = [];
  #begunLength = 0;

  /** @returns the documents that `chunk` completes. @throws RangeError when one passes the maximum */
  push(chunk: Buffer): string[] {
    return this.#lines.push(chunk).flatMap((line) => this.#add(line));
  }

  #add(line: string): readonly string[] {
    if (this.#begun.length === 0 && line !== '{') return line === '' ? [] : [line];
    this.#begun.push(line);
    this.#begunLength += line.length;
    if (this.#begunLength > MAX_QMP_DOCUMENT_BYTES)
      throw new RangeError(`a document of more than ${MAX_QMP_DOCUMENT_BYTES} bytes`);
    if (line !== '}') return [];
    const document = this.#begun.join('\n');
    this.#begun = [];
    this.#begunLength = 0;
    return [document];
  }
}
