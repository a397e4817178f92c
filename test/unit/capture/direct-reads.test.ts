/** Which open files of a process count as read past its page tables. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { mayReadDirectly } from '../../../src/capture/direct-reads.js';
import { killAtExit } from '../../support/processes.js';
import { suiteDirectory } from '../../support/vitest.js';

const { O_RDONLY, O_WRONLY, O_RDWR, O_DIRECT } = constants;
const file = path.join(suiteDirectory(), 'disk.img');
writeFileSync(file, 'a disk');

/** A process that has that file open. */
async function processWith(name: string, flags: number): Promise<number> {
  const fd = openSync(name, flags);
  const child = spawn('sleep', ['1000'], { stdio: ['ignore', 'ignore', 'ignore', fd] });
  closeSync(fd);
  const pid = child.pid!;
  killAtExit(pid);
  onTestFinished(async () => {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  });
  return pid;
}

it.each([
  ['a file that is read through the page cache', '/proc/version', O_RDONLY, false],
  ['a file that is read with O_DIRECT', file, O_RDONLY | O_DIRECT, true],
  ['a file that is only written to', file, O_WRONLY | O_DIRECT, false],
  ['a device that copies', '/dev/zero', O_RDONLY, false],
  ['a device that nobody knows', '/dev/full', O_RDWR, true],
])('%s', async (_, name, flags, isDirect) => {
  expect(mayReadDirectly(await processWith(name, flags))).toBe(isDirect);
});

it('a process that is not there', () => {
  expect(mayReadDirectly(2 ** 22 + 1)).toBe(true);
});
