import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { readHeap } from '../../../src/capture/ram-blocks.js';
import { killAtExit } from '../../support/processes.js';
import { until } from '../../support/until.js';
import { suiteDirectory } from '../../support/vitest.js';

const SOURCE = path.join(import.meta.dirname, 'breathing-heap.c');
/** Its heap shrinks under about every third of them. */
const READS = 300;

const program = path.join(suiteDirectory(), 'breathing-heap');
beforeAll(() => {
  execFileSync('cc', ['-O1', '-Wall', '-Werror', '-o', program, SOURCE]);
});

async function startBreathing(): Promise<number> {
  const child = spawn(program, { stdio: ['ignore', 'pipe', 'inherit'] });
  killAtExit(child.pid!);
  const exited = once(child, 'exit');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  await once(child.stdout, 'data');
  return child.pid!;
}

describe('the heap of a process', () => {
  test('is read as far as it is there, while it grows and shrinks', async () => {
    const pid = await startBreathing();
    // Of a heap that shrinks meanwhile they differ.
    const lengths = new Set<number>();
    for (let i = 0; i < READS || lengths.size === 1; i++) {
      const heap = readHeap(pid);
      expect(heap.includes('what stays')).toBe(true);
      lengths.add(heap.length);
    }
  });

  test('of one that has ended is not there: the capture says so', async () => {
    const pid = await startBreathing();
    process.kill(pid, 'SIGKILL');
    // Its memory is gone, and it is a zombie until this process has an idle moment.
    while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'latin1')));
    expect(() => readHeap(pid)).toThrow(expect.objectContaining({ code: 'QEMU_DIED' }));
    await until('it to be gone', () => !existsSync(`/proc/${pid}`));
    expect(() => readHeap(pid)).toThrow(expect.objectContaining({ code: 'QEMU_DIED' }));
  });
});
