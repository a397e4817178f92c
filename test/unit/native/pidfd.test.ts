import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { pidfdGetfd, pidfdOpen, pidfdSendSignal } from '../../../src/native/index.js';
import { temporaryDirectory } from './temporary.js';

describe('pidfds', () => {
  test('bring a descriptor over from another process', async () => {
    const file = path.join(temporaryDirectory(), 'file');
    writeFileSync(file, 'theirs');
    const input = openSync(file, 'r');
    const child = spawn('sleep', ['60'], { stdio: [input, 'ignore', 'ignore'] });
    closeSync(input);
    const exited = once(child, 'exit');
    const pidfd = pidfdOpen(child.pid ?? 0);
    try {
      const copy = pidfdGetfd(pidfd, 0);
      expect(readFileSync(copy, 'utf8')).toBe('theirs');
      closeSync(copy);
      expect(() => pidfdGetfd(pidfd, 999)).toThrow(
        expect.objectContaining({ code: 'EBADF', syscall: 'pidfd_getfd' }),
      );
    } finally {
      child.kill('SIGKILL');
      await exited;
      closeSync(pidfd);
    }
  });

  test('signal a process, and nobody once it has ended', async () => {
    const child = spawn('sleep', ['60'], { stdio: 'ignore' });
    const exited = once(child, 'exit');
    const pidfd = pidfdOpen(child.pid ?? 0);
    expect(() => pidfdSendSignal(pidfd, 0)).not.toThrow();
    pidfdSendSignal(pidfd, constants.signals.SIGTERM);
    expect(await exited).toEqual([null, 'SIGTERM']);
    expect(() => pidfdSendSignal(pidfd, 0)).toThrow(expect.objectContaining({ code: 'ESRCH' }));
    expect(() => pidfdOpen(child.pid ?? 0)).toThrow(
      expect.objectContaining({ code: 'ESRCH', syscall: 'pidfd_open' }),
    );
    closeSync(pidfd);
  });
});
