/** `npm run watch` in a copy of the sources: what it builds is what the tests accept as up to date. */
import { spawn } from 'node:child_process';
import { appendFileSync, cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFinished, test } from 'vitest';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';
import { problemOf } from '../../support/built-sources.js';
import { suiteDirectory } from '../../support/vitest.js';

const root = suiteDirectory();
const CHANGED = 'src/bench/client-worker.ts';
const BROKEN = 'src/index.ts';

test('the watcher stamps a build when all of it has succeeded, and not before', async () => {
  for (const entry of ['package.json', 'rolldown.config.js', 'scripts', 'src'])
    cpSync(path.join(PACKAGE_ROOT, entry), path.join(root, entry), { recursive: true });
  symlinkSync(path.join(PACKAGE_ROOT, 'node_modules'), path.join(root, 'node_modules'));
  mkdirSync(path.join(root, 'dist'));
  const lines = startWatcher();

  await untilLine(lines, /up to date/);
  expect(problem()).toBeUndefined();

  append(CHANGED, 'console.log("changed by a test");');
  expect(problem()).toContain(CHANGED);
  await untilLine(lines, /up to date/);
  expect(problem()).toBeUndefined();
  expect(readFileSync(path.join(root, 'dist/bench/client-worker.js'), 'utf8')).toContain('changed by a test');

  const whole = readFileSync(path.join(root, BROKEN));
  append(BROKEN, 'const broken: = ;');
  await untilLine(lines, /PARSE_ERROR/);
  // A bundle without the broken file builds; dist/ as a whole is still too old.
  append(CHANGED, 'console.log("changed again");');
  await untilLine(lines, /PARSE_ERROR/);
  expect(problem()).toContain('src/');
  writeFileSync(path.join(root, BROKEN), whole);
  await untilLine(lines, /up to date/);
  expect(problem()).toBeUndefined();
});

/** Why the tests would not run this build. */
function problem(): string | undefined {
  return problemOf(path.join(root, 'dist/.sources'), root);
}

function append(file: string, text: string): void {
  appendFileSync(path.join(root, file), `\n${text}\n`);
}

function startWatcher(): AsyncIterator<string> {
  // One stream, so that messages and errors keep their order.
  const watcher = spawn('sh', ['-c', 'exec node scripts/watch.js 2>&1'], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void watcher.kill('SIGKILL'));
  return createInterface({ input: watcher.stdout })[Symbol.asyncIterator]();
}

async function untilLine(lines: AsyncIterator<string>, pattern: RegExp): Promise<void> {
  for (;;) {
    const line = await lines.next();
    if (line.done === true) throw new Error('the watcher has ended');
    if (pattern.test(line.value)) return;
  }
}
