/** Loads the addon at first use, so that importing a file of this folder never fails. */
import { createRequire } from 'node:module';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { PACKAGE_ROOT } from '../util/package-paths.js';

const ADDON_PATH = path.join(PACKAGE_ROOT, 'build/Release/vmckpt_native.node');
const MAX_INT = 0x7fff_ffff;

let loaded: unknown;

/** `Addon` is what the caller uses of it. @throws VmckptError NATIVE_MISSING */
export function loadAddon<Addon>(): Addon {
  loaded ??= load();
  return loaded as Addon;
}

function load(): unknown {
  try {
    return createRequire(import.meta.url)(ADDON_PATH) as unknown;
  } catch (cause) {
    throw new VmckptError('NATIVE_MISSING', `the native addon cannot be loaded from ${ADDON_PATH}`, {
      hint: 'npm run build:native',
      cause,
    });
  }
}

export function integer(name: string, value: number, { min = 0, max = MAX_INT } = {}): number {
  if (Number.isInteger(value) && value >= min && value <= max) return value;
  throw new RangeError(`${name} is ${value}, an integer from ${min} to ${max} expected`);
}
