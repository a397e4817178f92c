/**
 * Bundles src/ into dist/, and removes from dist/ what no build would write today: chunks that have another name now, and
 * declarations of files that are gone. The other declarations stay, so that tsc compiles only what has changed.
 */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { build } from 'rolldown';
import config from '../rolldown.config.js';

const MANUAL = 'vmckpt.1';
const DECLARATION = /\.d\.ts$/;

const bundles = await build(config);
const written = new Set(bundles.flatMap(({ output }) => output.map(({ fileName }) => fileName)));

function isCurrent(file) {
  if (written.has(file) || file === MANUAL || path.basename(file).startsWith('.')) return true;
  return DECLARATION.test(file) && existsSync(path.join('src', file.replace(DECLARATION, '.ts')));
}

for (const entry of readdirSync('dist', { recursive: true, withFileTypes: true })) {
  const file = path.relative('dist', path.join(entry.parentPath, entry.name));
  if (entry.isFile() && !isCurrent(file)) rmSync(path.join('dist', file));
}
