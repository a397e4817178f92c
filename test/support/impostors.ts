/** What can stand in the place of a file of a generation. */
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll } from 'vitest';

const WATCHDOG_S = 100;

/** Kind → puts it where `file` was; what was there lies at `moved`. */
export const IMPOSTORS: Readonly<Record<string, (file: string, moved: string) => void>> = {
  'a FIFO': (file) => void execFileSync('mkfifo', [file]),
  'a socket': bindSocket,
  ...(process.getuid?.() === 0 && {
    'a device': (file: string) => void execFileSync('mknod', [file, 'c', '1', '5']),
  }),
  'a symbolic link': (file, moved) => symlinkSync(moved, file),
  'a folder': (file) => mkdirSync(file),
};

/** Replaces the file while `use` runs. */
export async function withImpostor<T>(
  file: string,
  put: (file: string, moved: string) => void,
  use: () => Promise<T>,
): Promise<T> {
  const moved = path.join(path.dirname(path.dirname(file)), '.moved');
  renameSync(file, moved);
  try {
    put(file, moved);
    return await use();
  } finally {
    rmSync(file, { recursive: true, force: true });
    renameSync(moved, file);
  }
}

export function putEmpty(file: string): void {
  writeFileSync(file, '', { mode: 0o600 });
}

/** Ends a suite that waits for a FIFO: no timeout of the runner ends a system call. */
export function watchdog(): void {
  const dog = spawn('sh', ['-c', `sleep ${WATCHDOG_S}; kill -9 ${process.pid}`], { detached: true });
  afterAll(() => void process.kill(-dog.pid!, 'SIGKILL'));
}

function bindSocket(file: string): void {
  // It stays when its process ends without closing it.
  const script = "require('node:net').createServer().listen(process.argv[1], () => process.exit())";
  execFileSync(process.execPath, ['-e', script, file]);
}
