/** The build in a copy of the sources. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { PACKAGE_ROOT } from '../../../src/util/package-paths.js';
import { suiteDirectory } from '../../support/vitest.js';

const root = suiteDirectory();

test('a build removes from dist/ what it would not write, and keeps what others have written', () => {
  for (const entry of ['package.json', 'rolldown.config.js', 'scripts', 'src'])
    cpSync(path.join(PACKAGE_ROOT, entry), path.join(root, entry), { recursive: true });
  symlinkSync(path.join(PACKAGE_ROOT, 'node_modules'), path.join(root, 'node_modules'));
  const stale = [
    'cli/main.former-chunk.js',
    'cli/main.former-chunk.js.map',
    'restore/gone.d.ts',
    'old/gone.js',
  ];
  const kept = ['restore/restore.d.ts', 'vmckpt.1', '.sources', '.tsbuildinfo'];
  for (const file of [...stale, ...kept]) {
    mkdirSync(path.join(root, 'dist', path.dirname(file)), { recursive: true });
    writeFileSync(path.join(root, 'dist', file), '');
  }
  execFileSync(process.execPath, ['scripts/bundle.js'], { cwd: root });
  const has = (file: string) => existsSync(path.join(root, 'dist', file));
  expect(stale.filter(has)).toEqual([]);
  expect(kept.filter((file) => !has(file))).toEqual([]);
  expect(['main.js', 'main.js.map'].filter((file) => !has(`serving/${file}`))).toEqual([]);
});
