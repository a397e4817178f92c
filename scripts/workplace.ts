/** The place of src/bench/workplace.ts with the real command run in it, for scripts. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import * as bench from '../src/bench/workplace.js';
import { distFile } from '../src/util/package-paths.js';

export { settleHost } from '../src/bench/workplace.js';

const run = promisify(execFile);
const COMMAND_TIMEOUT_MS = 600_000;

export interface Workplace extends Pick<bench.Workplace, 'dir' | 'storeDir' | 'runtimeDir'> {
  /** Runs `vmckpt --json ARGS` and returns its document. @throws Error with the command's own words */
  readonly vmckpt: <T>(args: readonly string[]) => Promise<T>;
}

/** Ends with this process: also by Ctrl-C, SIGTERM or an exception. */
export function openWorkplace(): Workplace {
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
    ['SIGHUP', 1],
  ] as const)
    process.once(signal, () => process.exit(128 + number));
  return { ...bench.openWorkplace(), vmckpt };
}

async function vmckpt<T>(args: readonly string[]): Promise<T> {
  const command = [distFile('cli/main.js'), '--json', ...args];
  try {
    const { stdout } = await run(process.execPath, command, { timeout: COMMAND_TIMEOUT_MS });
    return JSON.parse(stdout) as T;
  } catch (cause) {
    const { stderr = '' } = cause as { stderr?: string };
    throw new Error(`vmckpt ${args.join(' ')} failed: ${stderr.trim()}`, { cause });
  }
}
