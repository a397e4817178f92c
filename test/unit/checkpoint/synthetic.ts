/** Synthetic RAM (synthetic-pages.ts, which needs no vitest) and a place to write it to. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { onTestFinished } from 'vitest';

export { manifestParts, syntheticPage } from './synthetic-pages.js';

/** A directory that goes with the test. */
export function temporaryDir(): string {
  const dir = mkdtempSync(path.join(tmpdir(), 'vmckpt-test-'));
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}
