/** Whether QEMU takes a value for an option as the tables of src say: asked of real QEMUs. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { parseCommandLine } from '../../src/qemu/command-line.js';
import { qemuBinary, qemuProblem } from '../support/cache.js';

const run = promisify(execFile);

/** Names of all options, out of `-help`. */
async function optionsOf(qemu: string): Promise<string[]> {
  const { stdout } = await run(qemu, ['-help']);
  return [...new Set([...stdout.matchAll(/^-([\w-]+)/gm)].map(([, name]) => name!))];
}

/** QEMU looks at the last one before it does anything. */
async function takesValue(qemu: string, name: string): Promise<boolean> {
  const end = await run(qemu, ['-version', `-${name}`]).catch((error: { readonly stderr: string }) => error);
  return end.stderr.includes('requires an argument');
}

function isReadWithValue(name: string): boolean {
  try {
    // What looks like an option is a value where one is needed.
    return parseCommandLine([`-${name}`, '-S'])[0]!.value === '-S';
  } catch {
    return true;
  }
}

describe.each(['system', '10', '11'] as const)('QEMU %s', (version) => {
  it.skipIf(version !== 'system' && qemuProblem(version) !== undefined)(
    'takes a value for those options that are read with one',
    async () => {
      const qemu = qemuBinary(version);
      const names = await optionsOf(qemu);
      expect(names.length).toBeGreaterThan(90);
      const differing: string[] = [];
      for (const name of names)
        if ((await takesValue(qemu, name)) !== isReadWithValue(name)) differing.push(name);
      expect(differing).toEqual([]);
    },
  );
});
