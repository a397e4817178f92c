import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { buffer } from 'node:stream/consumers';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { openInput, writeNewFile, type Output } from '../../../src/interchange/files.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

async function writeText(out: Output, text = 'new'): Promise<void> {
  out.end(text);
  await once(out, 'close');
}

describe('openInput', () => {
  it('reads a file to its end', async () => {
    const file = path.join(temporaryDir(), 'file');
    writeFileSync(file, Buffer.alloc(3 << 20, 'x'));
    expect((await buffer(await openInput(file))).length).toBe(3 << 20);
  });

  it('waits for the writer of a named pipe', async () => {
    const pipe = path.join(temporaryDir(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    const reading = buffer(await openInput(pipe));
    await writeFile(pipe, 'through the pipe');
    expect((await reading).toString()).toBe('through the pipe');
  });

  it('closes a named pipe that nobody writes when it is destroyed', async () => {
    const pipe = path.join(temporaryDir(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    const input = await openInput(pipe);
    input.resume().destroy();
    await once(input, 'close');
  });

  it('refuses a directory and a file that is not there', async () => {
    const dir = temporaryDir();
    await expect(openInput(dir)).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
    await expect(openInput(path.join(dir, 'no'))).rejects.toMatchObject({ code: 'HOST_FILE_MISSING' });
  });
});

describe('writeNewFile', () => {
  it('does not replace a file unless it is told to', async () => {
    const dir = temporaryDir();
    const file = path.join(dir, 'file');
    writeFileSync(file, 'old');
    await expect(writeNewFile(file, { overwrite: false }, writeText)).rejects.toMatchObject({
      code: 'FILE_EXISTS',
    });
    expect(readFileSync(file, 'utf8')).toBe('old');
    await writeNewFile(file, { overwrite: true }, writeText);
    expect(readFileSync(file, 'utf8')).toBe('new');
    expect(readdirSync(dir)).toEqual(['file']);
  });

  it('does not replace a file that came while it was writing', async () => {
    const dir = temporaryDir();
    const file = path.join(dir, 'file');
    const write = async (out: Output) => {
      writeFileSync(file, 'old');
      await writeText(out);
    };
    await expect(writeNewFile(file, { overwrite: false }, write)).rejects.toMatchObject({
      code: 'FILE_EXISTS',
    });
    expect(readFileSync(file, 'utf8')).toBe('old');
    expect(readdirSync(dir)).toEqual(['file']);
  });

  it('never replaces what is not a regular file', async () => {
    const dir = temporaryDir();
    mkdirSync(path.join(dir, 'folder'));
    symlinkSync('/dev/null', path.join(dir, 'link'));
    for (const name of ['folder', 'link'])
      await expect(writeNewFile(path.join(dir, name), { overwrite: true }, writeText)).rejects.toMatchObject({
        code: 'FILE_EXISTS',
      });
    expect(readdirSync(dir)).toEqual(['folder', 'link']);
  });

  it('leaves nothing when writing fails', async () => {
    const dir = temporaryDir();
    const write = async (out: Output) => {
      out.write('half');
      throw new Error('no more');
    };
    await expect(writeNewFile(path.join(dir, 'file'), { overwrite: false }, write)).rejects.toThrow(
      'no more',
    );
    expect(readdirSync(dir)).toEqual([]);
  });

  it('names the file when its folder is missing', async () => {
    const file = path.join(temporaryDir(), 'missing', 'file');
    await expect(writeNewFile(file, { overwrite: false }, writeText)).rejects.toMatchObject({
      code: 'HOST_FILE_MISSING',
      message: expect.stringContaining(file) as string,
    });
  });
});
