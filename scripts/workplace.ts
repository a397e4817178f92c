/**
 * A place to measure in: a temporary folder with a store and a runtime folder of its own, and the real command
 * run in it. Whatever is started there inherits the folder's name in its environment, and so is found and killed
 * when this process ends, however deep vmckpt has started it; the folder goes with it.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { distFile } from '../src/util/package-paths.js';
import { killProcessesOf } from '../test/support/processes.js';

const run = promisify(execFile);
const COMMAND_TIMEOUT_MS = 600_000;
/** What a QEMU and a vmckpt need besides the guest's RAM. */
const OVERHEAD_BYTES = 384 * 2 ** 20;

export interface Workplace {
  readonly dir: string;
  readonly storeDir: string;
  readonly runtimeDir: string;
  /** Runs `vmckpt --json ARGS` and returns its document. @throws Error with the command's own words */
  readonly vmckpt: <T>(args: readonly string[]) => Promise<T>;
}

/** Ends with this process: also by Ctrl-C, SIGTERM or an exception. */
export function openWorkplace(): Workplace {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'vmckpt-'));
  const storeDir = path.join(dir, 'store');
  const runtimeDir = path.join(dir, 'run');
  process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
  process.env['VMCKPT_STORE'] = storeDir;
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
    ['SIGHUP', 1],
  ] as const)
    process.once(signal, () => process.exit(128 + number));
  process.on('exit', () => {
    killProcessesOf(runtimeDir);
    rmSync(dir, { recursive: true, force: true });
  });
  return { dir, storeDir, runtimeDir, vmckpt };
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

/**
 * Takes as much memory from the host as a guest of that size needs, and gives it back: under a hypervisor that
 * reclaims freed memory the first touch of a page costs ten times the second, and whoever is measured first would
 * pay for it. Also lets pending writes reach the disk.
 */
export async function settleHost(ramBytes: number): Promise<void> {
  const chunkBytes = 64 * 2 ** 20;
  const wantedBytes = Math.min(ramBytes + OVERHEAD_BYTES, os.freemem() * 0.8);
  const touch = `const held = []; for (let i = 0; i < ${Math.ceil(wantedBytes / chunkBytes)}; i++) held.push(Buffer.alloc(${chunkBytes}, 1));`;
  await run(process.execPath, ['-e', touch]);
  await run('sync');
}
