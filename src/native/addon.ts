/**
 * Finds the native parts: the addon, and next to it the helper programs. This happens once, at import, which never
 * fails. This checkout's own build comes first, then the build in the package (scripts/prebuild.sh). Without them
 * most of vmckpt works in other ways (docs/without-addon.md).
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { PACKAGE_ROOT } from '../util/package-paths.js';

const ADDON = 'vmckpt_native.node';
/** The binaries in the package. */
export const BUNDLED = path.join(PACKAGE_ROOT, `prebuilds/linux-${process.arch}-glibc`);
const DIRECTORIES = [path.join(PACKAGE_ROOT, 'build/Release'), BUNDLED];
const MAX_INT = 0x7fff_ffff;
/** Maximum for one task. */
export const MAX_THREADS = 64;

/** The addon in a directory, or why there is none, as a clause for the user. */
type Found = { readonly directory: string; readonly addon: unknown } | { readonly problem: string };

const found = find();

function find(): Found {
  if (process.env['VMCKPT_NATIVE'] === 'none') return { problem: 'VMCKPT_NATIVE=none rules it out' };
  let problem = `it is in neither ${DIRECTORIES.join(' nor ')}`;
  for (const directory of DIRECTORIES) {
    const file = path.join(directory, ADDON);
    if (!existsSync(file)) continue;
    try {
      return { directory, addon: createRequire(import.meta.url)(file) as unknown };
    } catch (error) {
      problem = `it cannot be loaded: ${(error as Error).message}`;
    }
  }
  return { problem };
}

export function hasAddon(): boolean {
  return 'addon' in found;
}

/** As a clause for the user; undefined when there is an addon. */
export function addonProblem(): string | undefined {
  return 'problem' in found ? found.problem : undefined;
}

/** The command that builds one. */
export function addonRemedy(): string {
  if (process.env['VMCKPT_NATIVE'] === 'none') return 'unset VMCKPT_NATIVE';
  const isCheckout = existsSync(path.join(PACKAGE_ROOT, 'binding.gyp'));
  return isCheckout
    ? 'npm run build:native'
    : 'npm ci && npm run build && npm link, in a clone of the repository';
}

/** @param what needs the addon, as the subject of a sentence. @throws VmckptError NATIVE_MISSING */
export function requireAddon(what: string): void {
  if ('problem' in found)
    throw new VmckptError('NATIVE_MISSING', `${what} needs the native addon, and ${found.problem}`, {
      hint: `To have it: ${addonRemedy()}.`,
    });
}

/** `Addon` is the part that the caller uses. @throws VmckptError NATIVE_MISSING */
export function loadAddon<Addon>(): Addon {
  requireAddon('what was asked for');
  return (found as { addon: Addon }).addon;
}

/** A program next to the addon. Without an addon, a path that does not exist. */
export function helperPath(name: string): string {
  return path.join('directory' in found ? found.directory : DIRECTORIES[0]!, name);
}

export function integer(name: string, value: number, { min = 0, max = MAX_INT } = {}): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new RangeError(`${name} is ${value}, expected an integer from ${min} to ${max}`);
}
