/** A file that several readers read at once, and that closes when the last read has ended. */
import fs from 'node:fs';
import { promisify } from 'node:util';
import { openRegular } from '../util/regular-file.js';

const read = promisify(fs.read);

export class ReadFile {
  readonly bytes: number;
  readonly #fd: number;
  #readers = 1;

  private constructor(fd: number) {
    this.#fd = fd;
    this.bytes = fs.fstatSync(fd).size;
  }

  /** @throws VmckptError NOT_A_FILE; system errors as they are */
  static open(file: string): ReadFile {
    return new ReadFile(openRegular(file));
  }

  /** `length` bytes at `offset`, fewer only at the end of the file. @throws system errors */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const into = Buffer.allocUnsafeSlow(Math.max(0, Math.min(length, this.bytes - offset)));
    this.#readers++;
    try {
      let done = 0;
      while (done < into.length) {
        const { bytesRead } = await read(this.#fd, into, done, into.length - done, offset + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
      return into.subarray(0, done);
    } finally {
      this.#release();
    }
  }

  /** To be called once. */
  close(): void {
    this.#release();
  }

  #release(): void {
    if (--this.#readers === 0) fs.closeSync(this.#fd);
  }
}
