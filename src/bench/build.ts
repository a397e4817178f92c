/** Who saves and restores what is measured: this build of vmckpt, or the one of another checkout beside it. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { VmckptError } from '../errors.js';
import type { RestoreOptions } from '../restore/attempt.js';
import type { RestoreReport } from '../restore/report.js';
import { restore } from '../restore/restore.js';
import { save, type Layout } from '../save/save.js';

const execute = promisify(execFile);

export interface SaveWishes {
  readonly qmpSocket: string;
  readonly storeDir: string;
  readonly name: string;
  readonly level: number | 'none';
  readonly layout: Layout;
  readonly signal: AbortSignal;
}

export interface Build {
  /** Saves the guest, which stands still from then on. */
  readonly save: (wishes: SaveWishes) => Promise<void>;
  readonly restore: (options: RestoreOptions) => Promise<RestoreReport>;
}

export const THIS_BUILD: Build = {
  save: async ({ qmpSocket, ...wishes }) => {
    const vm = `qmp:${qmpSocket}`;
    const silent = { onProgress: () => undefined, onMessage: () => undefined };
    await save({ ...wishes, ...silent, vm, method: 'stopped', quit: false, disksExternal: false });
  },
  restore,
};

/** It saves by its command line, which changes less than the library does. @throws VmckptError FILE_UNREADABLE */
export async function buildOf(checkout: string): Promise<Build> {
  const library = path.join(checkout, 'dist/index.js');
  if (!existsSync(library))
    throw new VmckptError(
      'FILE_UNREADABLE',
      `there is no build of vmckpt in ${checkout}: ${library} is missing`,
      { hint: 'Run npm ci and npm run build in that checkout.' },
    );
  const other = (await import(pathToFileURL(library).href)) as Pick<Build, 'restore'>;
  const program = path.join(checkout, 'dist/cli/main.js');
  return {
    save: async ({ qmpSocket, storeDir, name, level, layout, signal }) => {
      const options = ['--stop', '--level', `${level}`, '--layout', layout];
      const args = [program, '--store', storeDir, 'save', ...options, `qmp:${qmpSocket}`, name];
      await execute(process.execPath, args, { signal });
    },
    restore: other.restore,
  };
}
