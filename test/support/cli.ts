/** Runs the built command as a user does, with a store and a runtime folder of the suite's own. */
import path from 'node:path';
import { identifyProcess, type ProcessIdentity } from '../../src/util/process-identity.js';
import { startCli, type CliOptions, type CliResult } from './command.js';
import { suiteDirectory } from './vitest.js';

export interface CliSuite {
  readonly directory: string;
  readonly storeDir: string;
  readonly runtimeDir: string;
  readonly run: (args: readonly string[], options?: CliOptions) => Promise<CliResult>;
}

/** Without the rights of root that stand above file permissions; files of root's still belong to it. */
export const WITHOUT_CAPABILITIES = ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--'] as const;

export const isRoot = process.getuid?.() === 0;

export function cliSuite(): CliSuite {
  const directory = suiteDirectory();
  const [storeDir, runtimeDir] = [path.join(directory, 'store'), path.join(directory, 'run')];
  const variables = { VMCKPT_STORE: storeDir, VMCKPT_RUNTIME_DIR: runtimeDir };
  return {
    directory,
    storeDir,
    runtimeDir,
    run: (args, { env = {}, ...options } = {}) =>
      startCli(args, { ...options, env: { ...variables, ...env } }).ended,
  };
}

/** A process that is certainly dead. */
export function deadProcess(): ProcessIdentity {
  return { ...identifyProcess(process.pid)!, startTicks: 1 };
}
