/** Tests must not run old code: what notices that `dist/` or `build/` is not made of the sources that are here. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';
import { problemOf } from '../../support/built-sources.js';
import { suiteDirectory } from '../../support/vitest.js';

const directory = suiteDirectory();

/** A folder of sources in `root`, and beside it the stamp of a build made of them by the script that builds run. */
function built(): { readonly root: string; readonly stamp: string } {
  const root = mkdtempSync(path.join(directory, 'root-'));
  mkdirSync(path.join(root, 'src/deep'), { recursive: true });
  mkdirSync(path.join(root, 'dist'));
  writeFileSync(path.join(root, 'src/deep/a.ts'), 'a');
  writeFileSync(path.join(root, 'src/b.ts'), 'b');
  writeFileSync(path.join(root, 'config.js'), 'c');
  execFileSync(path.join(PACKAGE_ROOT, 'scripts/stamp-sources.sh'), ['dist', 'config.js', 'src'], {
    cwd: root,
  });
  return { root, stamp: path.join(root, 'dist/.sources') };
}

it('accepts a build of the sources that are here', () => {
  const { root, stamp } = built();
  expect(problemOf(stamp, root)).toBeUndefined();
});

it.each([
  ['changed', 'is older than src/deep/a.ts', (root: string) => writeFileSync(`${root}/src/deep/a.ts`, 'A')],
  [
    'added',
    'was built without src/deep/new.ts',
    (root: string) => writeFileSync(`${root}/src/deep/new.ts`, ''),
  ],
  ['removed', 'was built with src/b.ts, which is gone', (root: string) => rmSync(`${root}/src/b.ts`)],
  [
    'changed at the top',
    'is older than config.js',
    (root: string) => writeFileSync(`${root}/config.js`, 'C'),
  ],
  ['not noted', 'does not say what it was built from', (root: string) => rmSync(`${root}/dist/.sources`)],
])('refuses a build whose sources were %s', (_what, problem, change) => {
  const { root, stamp } = built();
  change(root);
  expect(problemOf(stamp, root)).toBe(problem);
});
