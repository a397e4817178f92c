import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline/promises';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { takeUserfaultfd } from '../../../src/capture/take-userfaultfd.js';
import { chooseSeed, Random } from '../../support/faults.js';
import { killAtExit } from '../../support/processes.js';
import {
  killTrackerAfter,
  killTrackerAt,
  parkTracker,
  type SleepingCall,
  TRACKER_POINTS,
  untilAsleep,
  userfaultfdsOf,
} from '../../support/traced.js';
import { suiteDirectory } from '../../support/vitest.js';

const SOURCE = path.join(import.meta.dirname, '../native/traced-process.c');
const SLEEPING = ['ppoll', 'read', 'futex'] as const;
const RANDOM_KILLS = 60;
/** What the program takes from its start to its end, and a little more. */
const MAX_US = 3_000;

const program = path.join(suiteDirectory(), 'traced-process');
beforeAll(() => {
  execFileSync('cc', ['-O1', '-Wall', '-Werror', '-pthread', '-o', program, SOURCE]);
});

/** With a thread that sleeps in each of these calls, and notices when anything of its own is changed. */
async function startTraced(...calls: SleepingCall[]) {
  const child = spawn(program, calls, { stdio: ['pipe', 'pipe', 'inherit'] });
  killAtExit(child.pid!);
  const exited = once(child, 'exit');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  // A thread that has printed a line still stands behind write(2), which can be made again.
  const asleep = () => untilAsleep(child.pid!, ['poll', ...calls]);
  expect((await lines.next()).value).toBe('ready');
  await asleep();
  const examine = async (): Promise<void> => {
    child.stdin.write('\n');
    expect((await lines.next()).value).toMatch(/^(\d+ )*intact$/);
    await asleep();
  };
  return { pid: child.pid!, child, examine };
}

describe('a userfaultfd of another process', () => {
  test.each(SLEEPING)(
    'is made by a thread in %s, which has everything as before, and is not left there',
    async (call) => {
      const { pid, examine } = await startTraced(call);
      for (let i = 0; i < 10; i++) {
        const fd = (await takeUserfaultfd({ pid })) as number;
        expect(readlinkSync(`/proc/self/fd/${fd}`)).toBe('anon_inode:[userfaultfd]');
        closeSync(fd);
        await examine();
        expect(userfaultfdsOf(pid)).toEqual([]);
      }
    },
  );

  test.each(TRACKER_POINTS)('harms no thread when it is killed where it is %s', async (point) => {
    for (const call of SLEEPING) {
      const { pid, examine } = await startTraced(call);
      for (let i = 0; i < 3; i++) {
        await killTrackerAt(pid, point);
        await examine();
      }
      // The next one closes what the killed ones have left.
      closeSync((await takeUserfaultfd({ pid })) as number);
      await examine();
      expect(userfaultfdsOf(pid)).toEqual([]);
    }
  });

  test('harms no thread whenever it is killed', async () => {
    const { pid, examine } = await startTraced('ppoll', 'read', 'futex', 'futex');
    const random = new Random(chooseSeed());
    console.info(`VMCKPT_SEED=${random.seed}`);
    for (let i = 0; i < RANDOM_KILLS; i++) {
      await killTrackerAfter(pid, random.next() * MAX_US);
      await examine();
    }
    closeSync((await takeUserfaultfd({ pid })) as number);
    await examine();
    expect(userfaultfdsOf(pid)).toEqual([]);
  });

  test('is not to be had where no thread sleeps in a call that can be made again', async () => {
    const { pid, examine } = await startTraced();
    expect(await takeUserfaultfd({ pid })).toMatch('none of its threads stands behind a system call');
    await examine();
  });

  test.each([
    ['userfaultfd', 323],
    ['close', 3],
    ['rt_sigreturn', 15],
  ])('is not tried where a seccomp filter would kill the process for %s', async (_name, call) => {
    process.env['DENIED_CALL'] = `${call}`;
    onTestFinished(() => void delete process.env['DENIED_CALL']);
    const { pid, examine } = await startTraced('ppoll');
    expect(await takeUserfaultfd({ pid })).toMatch(/seccomp filter (does not allow|that cannot be read)/);
    await examine();
  });

  test('is not to be had from a process that is stopped, traced, or gone', async () => {
    const { pid, child } = await startTraced('ppoll');
    child.kill('SIGSTOP');
    await expect.poll(() => takeUserfaultfd({ pid })).toMatch('it is stopped by a signal');
    child.kill('SIGCONT');
    const tracer = await parkTracker(pid, 'seized');
    expect(await takeUserfaultfd({ pid })).toBe(`process ${tracer.pid} (vmckpt-tracker) traces it`);
    await tracer.kill();
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(await takeUserfaultfd({ pid })).toMatch(`there is no process ${pid}`);
  });
});
