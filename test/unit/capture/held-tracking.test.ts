import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { HeldTracking, holdTracking } from '../../../src/capture/held-tracking.js';
import { openWriteProtection, resumeWriteProtection } from '../../../src/capture/open-tracker.js';
import type { TrackerOptions, WriteTracker } from '../../../src/capture/tracker.js';
import { writeProtectionProblem } from '../../../src/native/index.js';
import { isWriteProtected } from '../../../src/qemu/guest-memory.js';
import { startWritten } from '../../contracts/write-tracker.js';
import { suiteDirectory } from '../../support/vitest.js';
import { temporaryDirectory } from '../native/temporary.js';

const SOURCE = path.join(import.meta.dirname, '../../contracts/written-process.c');

const program = path.join(suiteDirectory(), 'written-process');
beforeAll(() => {
  execFileSync('cc', ['-O1', '-Wall', '-Werror', '-pthread', '-o', program, SOURCE]);
});

let socketPath: string;
beforeEach(() => {
  socketPath = path.join(temporaryDirectory(), 'tracking.sock');
});

async function opened(options: TrackerOptions): Promise<WriteTracker> {
  const tracker = await openWriteProtection(options);
  if (typeof tracker === 'string') throw new Error(tracker);
  return tracker;
}

/** A process whose writes are tracked since `gen1`, by a holder and by nobody else. */
async function startHeld() {
  const written = await startWritten(program, 'small');
  const tracker = await opened(written.options);
  tracker.arm();
  const { pid } = written;
  await holdTracking({ pid, userfaultfd: tracker.userfaultfd!, socketPath, generationId: 'gen1' });
  tracker.close();
  return written;
}

async function found(): Promise<HeldTracking> {
  const held = await HeldTracking.find(socketPath);
  if (held === undefined) throw new Error('nothing is held');
  return held;
}

describe.skipIf(writeProtectionProblem() !== undefined)('write tracking that is held', () => {
  test('goes on for the next save, and for the one after it', async () => {
    const written = await startHeld();
    await written.does('write 3 1 1 9');
    for (const [from, to, page] of [
      ['gen1', 'gen2', 3],
      ['gen2', 'gen3', 4],
    ] as const) {
      const held = await found();
      expect(held.generationId).toBe(from);
      const tracker = resumeWriteProtection(written.options, await held.take());
      expect([...tracker.take()]).toEqual([page, 1]);
      await held.keep(to);
      held.close();
      tracker.close();
      await written.does('write 4 1 1 9');
    }
    expect(isWriteProtected(written.pid)).toBe(true);
  });

  test('is as before when it was only looked for', async () => {
    const written = await startHeld();
    (await found()).close();
    const held = await found();
    expect(held.generationId).toBe('gen1');
    held.close();
    expect(isWriteProtected(written.pid)).toBe(true);
  });

  test('ends with a save that has taken it and dies', async () => {
    const written = await startHeld();
    const held = await found();
    const tracker = resumeWriteProtection(written.options, await held.take());
    held.close();
    tracker.close();
    await expect.poll(() => isWriteProtected(written.pid)).toBe(false);
    await expect.poll(() => HeldTracking.find(socketPath)).toBeUndefined();
    expect(existsSync(socketPath)).toBe(false);
  });

  test('ends when it is asked to, and leaves nothing', async () => {
    const written = await startHeld();
    const held = await found();
    await held.end();
    held.close();
    await expect.poll(() => isWriteProtected(written.pid)).toBe(false);
    expect(existsSync(socketPath)).toBe(false);
    const again = await opened(written.options);
    onTestFinished(() => again.close());
    again.arm();
  });

  test('ends with the process', async () => {
    const written = await startHeld();
    process.kill(written.pid, 'SIGKILL');
    await expect.poll(() => existsSync(socketPath)).toBe(false);
    expect(await HeldTracking.find(socketPath)).toBeUndefined();
  });
});
