/** Huge pages of the host, for the tests that need some; one suite at a time has them, whatever runs beside it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll } from 'vitest';
import { LockFile } from '../../src/store/lock-file.js';
import { poll } from '../../src/util/deadline.js';

const SETTING = '/proc/sys/vm/nr_hugepages';
/** Only root can raise the setting. */
const LOCK = '/run/vmckpt-huge-pages.lock';
const LOCK_TIMEOUT_MS = 170_000;

/** Why the host cannot give `count` pages of 2 MiB; undefined when it can, or when another suite has some just now. */
export function hugePagesProblem(count: number): string | undefined {
  let lock: LockFile | undefined;
  try {
    lock = LockFile.tryTake(LOCK);
    if (lock === undefined) return undefined;
    const before = readFileSync(SETTING, 'utf8');
    try {
      writeFileSync(SETTING, String(Number(before) + count));
      const given = Number(readFileSync(SETTING, 'utf8')) - Number(before);
      return given < count ? `${given} huge pages of 2 MiB, ${count} needed` : undefined;
    } finally {
      writeFileSync(SETTING, before);
    }
  } catch (error) {
    return (error as Error).message;
  } finally {
    lock?.release();
  }
}

/** `count` more of them for the enclosing suite. */
export function withHugePages(count: number): void {
  let lock: LockFile | undefined;
  let before = '';
  beforeAll(async () => {
    const what = 'another suite to give its huge pages back';
    lock = await poll(() => LockFile.tryTake(LOCK), { what, timeoutMs: LOCK_TIMEOUT_MS, everyMs: 50 });
    before = readFileSync(SETTING, 'utf8');
    writeFileSync(SETTING, String(Number(before) + count));
  });
  afterAll(() => {
    if (lock === undefined) return;
    writeFileSync(SETTING, before);
    lock.release();
  });
}
