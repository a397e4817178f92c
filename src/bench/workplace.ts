/**
 * A place to measure in: a temporary folder with a store and a runtime folder of its own. Whatever is started there
 * inherits the folder's name in its environment, and so is found and killed when this process ends, however deep
 * vmckpt has started it; the folder goes with it.
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { killProcessesOf } from './processes.js';

const run = promisify(execFile);
/** What a QEMU and a vmckpt need besides the guest's RAM. */
const OVERHEAD_BYTES = 384 * 2 ** 20;

export interface Workplace {
  /** With a path short enough for unix sockets. */
  readonly dir: string;
  readonly storeDir: string;
  readonly runtimeDir: string;
  /** Ends what was started here and removes everything; so does the end of this process. */
  close(): void;
}

/** @param dataDir where the store goes, when it must lie on a certain disk */
export function openWorkplace(dataDir?: string): Workplace {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'vmckpt-'));
  const storeDir = path.join(dataDir ?? dir, 'store');
  const runtimeDir = path.join(dir, 'run');
  process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
  process.env['VMCKPT_STORE'] = storeDir;
  const close = () => {
    killProcessesOf(runtimeDir);
    for (const each of [dir, ...(dataDir === undefined ? [] : [dataDir])])
      rmSync(each, { recursive: true, force: true });
  };
  process.on('exit', close);
  return { dir, storeDir, runtimeDir, close };
}

/**
 * Takes as much memory from the host as a guest of that size needs, and gives it back. Under a hypervisor that
 * reclaims freed memory, the first touch of a page costs ten times the second, and the first measurement would pay
 * for all others. Also lets pending writes reach the disk.
 */
export async function settleHost(ramBytes: number): Promise<void> {
  const chunkBytes = 64 * 2 ** 20;
  const wantedBytes = Math.min(ramBytes + OVERHEAD_BYTES, os.freemem() * 0.8);
  const touch = `const held = []; for (let i = 0; i < ${Math.ceil(wantedBytes / chunkBytes)}; i++) held.push(Buffer.alloc(${chunkBytes}, 1));`;
  await run(process.execPath, ['-e', touch]);
  await run('sync');
}
