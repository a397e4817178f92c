/** Before tests that run what was built: it was built from the sources that are here, or they would test old code. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { PACKAGE_ROOT } from '../../src/util/package-paths.js';

/** Where the builds note their sources: scripts/stamp-sources.sh. */
const BUILDS = { dist: 'npm run build:ts', build: 'npm run build:native' };

/** @throws Error that names the first source that differs, and what builds it */
export function setup(): void {
  for (const [folder, command] of Object.entries(BUILDS)) {
    const changed = changedSource(path.join(PACKAGE_ROOT, folder, '.sources'));
    if (changed !== undefined) throw new Error(`${folder}/ is older than ${changed}. Run ${command} first.`);
  }
}

/** Of a build that has noted nothing nobody can tell. */
function changedSource(stamp: string): string | undefined {
  if (!existsSync(stamp)) return undefined;
  for (const line of readFileSync(stamp, 'utf8').trimEnd().split('\n')) {
    const [digest, file] = line.split('  ') as [string, string];
    const source = path.join(PACKAGE_ROOT, file);
    if (!existsSync(source) || digest !== sha256(source)) return file;
  }
  return undefined;
}

function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}
