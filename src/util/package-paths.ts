/** Paths of the package's own files: the same from src/ under vitest and from dist/ once built. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const PACKAGE_ROOT = findRoot(path.dirname(fileURLToPath(import.meta.url)));

/** A built JavaScript file, for worker threads and helper processes: `distFile('checkpoint/worker.js')`. */
export function distFile(relative: string): string {
  return path.join(PACKAGE_ROOT, 'dist', relative);
}

function findRoot(from: string): string {
  if (existsSync(path.join(from, 'package.json'))) return from;
  const parent = path.dirname(from);
  if (parent === from) throw new Error('package.json of vmckpt not found above its own files');
  return findRoot(parent);
}

export function packageVersion(): string {
  const manifest = JSON.parse(readFileSync(path.join(PACKAGE_ROOT, 'package.json'), 'utf8')) as {
    version: string;
  };
  return manifest.version;
}
