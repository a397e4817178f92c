/**
 * A disk image whose reads wait until the test lets them go (slow-disk.c), so that a read of a QEMU with cache=none is
 * under way, its pages pinned, for as long as a test wants it.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, closeSync, constants, mkdirSync, mkdtempSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { onTestFinished } from 'vitest';
import { killAtExit } from './processes.js';
import { BACKSTOP_MS, until } from './until.js';

const SOURCE = path.join(import.meta.dirname, 'slow-disk.c');

export interface SlowDisk {
  readonly file: string;
  /** Offsets of the reads that were held, in the order in which they came. */
  readonly held: readonly number[];
  /** Offsets of those that were held and let go, in that order. */
  readonly answered: readonly number[];
  /** From now on reads from `offset` on wait. Returns when the first one does. */
  hold(offset: number): Promise<void>;
  /** Returns when a read waits. The process does nothing else meanwhile. */
  waitForHeld(): void;
  /** Those that wait are answered; later ones wait. */
  letGo(): void;
  /** All are answered, from now on at once. */
  serve(): void;
}

/** Why there cannot be one here, or undefined. */
export function slowDiskProblem(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root mounts file systems';
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return `/dev/fuse: ${(error as NodeJS.ErrnoException).code}`;
  }
}

/** Ends with the test, and with what still has it open. */
export async function startSlowDisk(dir: string, image: string): Promise<SlowDisk> {
  const folder = mkdtempSync(path.join(dir, 'slow-'));
  const program = path.join(folder, 'slow-disk');
  execFileSync('cc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', program, SOURCE]);
  const mounted = path.join(folder, 'mounted');
  mkdirSync(mounted);
  const log = path.join(folder, 'log');
  const output = openSync(log, 'w');
  const child = spawn(program, [image, mounted], { stdio: ['pipe', output, 'inherit'] });
  closeSync(output);
  killAtExit(child.pid!);
  const exited = once(child, 'exit');
  onTestFinished(async () => {
    child.stdin!.end();
    await exited;
  });
  const said = (): string[] => readFileSync(log, 'latin1').split('\n').slice(0, -1);
  const offsets = (word: string): number[] =>
    said()
      .filter((line) => line.startsWith(word))
      .map((line) => Number(line.split(' ')[1]));
  const tell = (line: string) => void child.stdin!.write(`${line}\n`);
  await until('a slow disk', () => {
    if (child.exitCode !== null) throw new Error(`slow-disk ended with ${child.exitCode}`);
    return said().includes('ready');
  });
  return {
    file: path.join(mounted, 'disk'),
    get held() {
      return offsets('held');
    },
    get answered() {
      return offsets('answered');
    },
    hold: async (offset) => {
      const before = offsets('held').length;
      tell(`hold ${offset}`);
      await until('a read that is held', () => offsets('held').length > before);
    },
    waitForHeld: () => {
      const endMs = performance.now() + BACKSTOP_MS;
      while (offsets('held').length === offsets('answered').length) {
        if (performance.now() > endMs) throw new Error('no read is held');
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      }
    },
    letGo: () => tell('let go'),
    serve: () => tell('serve'),
  };
}
