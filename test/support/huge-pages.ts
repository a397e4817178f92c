/** Huge pages of the host, for the tests that need some. */
import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll } from 'vitest';

const SETTING = '/proc/sys/vm/nr_hugepages';

/** Why the host cannot give `count` pages of 2 MiB; undefined when it can. */
export function hugePagesProblem(count: number): string | undefined {
  const before = readFileSync(SETTING, 'utf8');
  try {
    writeFileSync(SETTING, String(Number(before) + count));
    const given = Number(readFileSync(SETTING, 'utf8')) - Number(before);
    return given < count ? `${given} huge pages of 2 MiB, ${count} needed` : undefined;
  } catch (error) {
    return (error as Error).message;
  } finally {
    try {
      writeFileSync(SETTING, before);
    } catch {
      // then it could not be raised either
    }
  }
}

/** `count` more of them for the enclosing suite. */
export function withHugePages(count: number): void {
  let before = '';
  beforeAll(() => {
    before = readFileSync(SETTING, 'utf8');
    writeFileSync(SETTING, String(Number(before) + count));
  });
  afterAll(() => writeFileSync(SETTING, before));
}
