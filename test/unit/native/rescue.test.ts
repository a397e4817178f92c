import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { rescueUserfaultfd } from '../../../src/native/index.js';
import { until } from '../../support/until.js';
import { printed, temporaryDirectory } from './temporary.js';

const GUEST_SOURCE = path.join(import.meta.dirname, 'rescue-guest.c');

describe('rescueUserfaultfd', () => {
  test('frees a process that hangs in writes to protected memory, and no memory under post-copy', async () => {
    const program = path.join(temporaryDirectory(), 'rescue-guest');
    execFileSync('cc', ['-O1', '-Wall', '-Werror', '-pthread', '-o', program, GUEST_SOURCE]);
    const guest = spawn(program, { stdio: ['ignore', 'pipe', 'inherit'] });
    const pid = guest.pid ?? 0;
    const exited = once(guest, 'exit');
    onTestFinished(async () => {
      guest.kill('SIGKILL');
      await exited;
    });
    let output = '';
    guest.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
    await printed(guest.stdout, 'writing');
    // It sleeps, in no system call: proc_pid_syscall(5).
    await until('it to hang', () => readFileSync(`/proc/${pid}/syscall`, 'latin1').startsWith('-1 '));
    expect(output).toBe('writing\n');

    const written = printed(guest.stdout, 'written');
    expect(rescueUserfaultfd(pid)).toEqual({ descriptors: 2, regions: 1 });
    await written;
    expect(output).toBe('writing\nwritten\n');
    expect(registrations(pid)).toEqual(['um']);
    expect(rescueUserfaultfd(pid)).toEqual({ descriptors: 2, regions: 0 });
  });

  test('finds nothing to do in a process without a userfaultfd', () => {
    expect(rescueUserfaultfd(process.pid)).toEqual({ descriptors: 0, regions: 0 });
  });

  test('fails with ESRCH when there is no such process', () => {
    expect(() => rescueUserfaultfd(2 ** 22 + 1)).toThrow(
      expect.objectContaining({ code: 'ESRCH', syscall: 'pidfd_open' }),
    );
    expect(() => rescueUserfaultfd(0)).toThrow(RangeError);
  });
});

function registrations(pid: number): string[] {
  const smaps = readFileSync(`/proc/${pid}/smaps`, 'utf8');
  return [...smaps.matchAll(/^VmFlags:.* (um|uw)\b/gm)].map((match) => match[1] ?? '');
}
