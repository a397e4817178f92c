import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { HeldTracking, holdersOf } from '../../../src/capture/held-tracking.js';
import { openWriteProtection, resumeWriteProtection } from '../../../src/capture/open-tracker.js';
import type { TrackerOptions, WriteTracker } from '../../../src/capture/tracker.js';
import { writeProtectionProblem } from '../../../src/native/index.js';
import { isWriteProtected } from '../../../src/qemu/guest-memory.js';
import { isStopped } from '../../../src/util/process-identity.js';
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

/** A process whose writes are tracked, by a holder that is in use, and by nobody else. */
async function begin() {
  const written = await startWritten(program, 'small');
  const tracker = await opened(written.options);
  tracker.arm();
  const held = HeldTracking.begin({ pid: written.pid, userfaultfd: tracker.userfaultfd!, socketPath });
  tracker.close();
  return { written, held };
}

/** The same, tracked since `gen1`, and not in use. */
async function startHeld() {
  const { written, held } = await begin();
  await held.keep('gen1');
  held.close();
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
      expect(held.note).toBe(from);
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
    expect(held.note).toBe('gen1');
    expect([held.pid]).toEqual(holdersOf(written.pid));
    held.close();
    expect(isWriteProtected(written.pid)).toBe(true);
  });

  test('keeps a note of 15,000 characters', async () => {
    const { held } = await begin();
    await held.keep('n'.repeat(15_000));
    held.close();
    const again = await found();
    expect(again.note).toHaveLength(15_000);
    again.close();
  });

  test.each(['has begun it', 'has taken it'])('ends with a save that %s and dies', async (how) => {
    let written;
    if (how === 'has begun it') {
      const begun = await begin();
      written = begun.written;
      begun.held.close();
    } else {
      written = await startHeld();
      const held = await found();
      const tracker = resumeWriteProtection(written.options, await held.take());
      held.close();
      tracker.close();
    }
    await expect.poll(() => isWriteProtected(written.pid)).toBe(false);
    await expect.poll(() => HeldTracking.find(socketPath)).toBeUndefined();
    await expect.poll(() => existsSync(socketPath)).toBe(false);
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

  test.each(['SIGTERM', 'SIGKILL'] as const)('ends by %s, and can be begun anew', async (signal) => {
    const written = await startHeld();
    process.kill(holdersOf(written.pid)[0]!, signal);
    await expect.poll(() => isWriteProtected(written.pid)).toBe(false);
    if (signal === 'SIGTERM') await expect.poll(() => existsSync(socketPath)).toBe(false);
    expect(await HeldTracking.findOrEnd(socketPath)).toBeUndefined();
    expect(existsSync(socketPath)).toBe(false);
    const tracker = await opened(written.options);
    tracker.arm();
    const held = HeldTracking.begin({ pid: written.pid, userfaultfd: tracker.userfaultfd!, socketPath });
    tracker.close();
    await held.keep('gen1');
    held.close();
    expect(isWriteProtected(written.pid)).toBe(true);
  });

  test('ends, when its process does not answer, for one who wants it, and for nobody else', async () => {
    const { written, held } = await begin();
    onTestFinished(() => held.close());
    await expect.poll(() => HeldTracking.holderAt(socketPath)).toBeDefined();
    const [pid] = holdersOf(written.pid);
    await expect(HeldTracking.find(socketPath, { timeoutMs: 50 })).rejects.toMatchObject({ code: 'FAILED' });
    expect(HeldTracking.holderAt(socketPath)).toBe(pid);
    expect(isWriteProtected(written.pid)).toBe(true);
    expect(await HeldTracking.findOrEnd(socketPath, { timeoutMs: 50 })).toEqual({ endedPid: pid });
    expect(isWriteProtected(written.pid)).toBe(false);
    expect(existsSync(socketPath)).toBe(false);
  });

  test('ends at once, when its process is stopped, for one who wants it', async () => {
    const written = await startHeld();
    const [pid] = holdersOf(written.pid);
    process.kill(pid!, 'SIGSTOP');
    await expect.poll(() => isStopped(pid!)).toBe(true);
    const never = { timeoutMs: 2 ** 31 - 1 };
    await expect(HeldTracking.find(socketPath, never)).rejects.toMatchObject({ code: 'FAILED' });
    expect(await HeldTracking.findOrEnd(socketPath, never)).toEqual({ endedPid: pid });
    expect(isWriteProtected(written.pid)).toBe(false);
    expect(existsSync(socketPath)).toBe(false);
  });

  test('cannot be begun where its socket cannot be', async () => {
    socketPath = path.join(socketPath, 'no folder');
    const { written, held } = await begin();
    await expect(held.keep('gen1')).rejects.toMatchObject({ code: 'FAILED' });
    held.close();
    await expect.poll(() => isWriteProtected(written.pid)).toBe(false);
  });

  test('ends with the process', async () => {
    const written = await startHeld();
    process.kill(written.pid, 'SIGKILL');
    await expect.poll(() => existsSync(socketPath)).toBe(false);
    expect(await HeldTracking.find(socketPath)).toBeUndefined();
  });
});
