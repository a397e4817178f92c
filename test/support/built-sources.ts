/** Runs before all tests: `dist/` and `build/` must come from the sources that are here, or tests would run old code. */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { PACKAGE_ROOT } from '../../src/util/package-paths.js';

interface Build {
  readonly folder: string;
  readonly command: string;
  /** Without it tests run without the product of this build, which may be on purpose. */
  readonly isOptional?: true;
}

/** Each build notes its sources in `.sources`: scripts/stamp-sources.sh. */
const BUILDS: readonly Build[] = [
  { folder: 'dist', command: 'npm run build:ts' },
  { folder: 'build', command: 'npm run build:native', isOptional: true },
];

/** @throws Error that names the first source that differs, and the command that builds it */
export function setup(): void {
  for (const { folder, command, isOptional } of BUILDS) {
    const dir = path.join(PACKAGE_ROOT, folder);
    if (isOptional && !existsSync(dir)) continue;
    const problem = problemOf(path.join(dir, '.sources'), PACKAGE_ROOT);
    if (problem !== undefined) throw new Error(`${folder}/ ${problem}. Run ${command} first.`);
  }
}

/** @returns why a build with this list of its sources is not one of the sources in `root`; undefined when it is */
export function problemOf(stamp: string, root: string): string | undefined {
  if (!existsSync(stamp)) return 'does not say what it was built from';
  const built = new Map(
    readFileSync(stamp, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line): [string, string] => [line.slice(DIGEST_CHARACTERS + 2), line.slice(0, DIGEST_CHARACTERS)]),
  );
  for (const [file, digest] of built) {
    const source = path.join(root, file);
    if (!existsSync(source)) return `was built with ${file}, which is gone`;
    if (digest !== sha256(source)) return `is older than ${file}`;
  }
  const added = [...new Set([...built.keys()].map((file) => file.split('/', 1)[0]!))]
    .flatMap((top) => filesIn(root, top))
    .find((file) => !built.has(file));
  return added === undefined ? undefined : `was built without ${added}`;
}

const DIGEST_CHARACTERS = 64;

/** @returns every file below `top`, or `top` itself when it is a file; paths from `root` on */
function filesIn(root: string, top: string): string[] {
  const full = path.join(root, top);
  if (!statSync(full).isDirectory()) return [top];
  return readdirSync(full, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(root, path.join(entry.parentPath, entry.name)));
}

function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}
