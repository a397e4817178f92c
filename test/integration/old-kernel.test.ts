/**
 * What the kernel of this host may not have, in a guest with Debian 12's: soft-dirty bits (native/core/soft_dirty.h), the
 * way in which an older kernel lets go of a thread whose tracer is killed, and Yama. In software emulation.
 */
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { TRACKER_PATH } from '../../src/native/index.js';
import { poll } from '../../src/util/deadline.js';
import { guestFile, qemuBinary } from '../support/cache.js';
import { killAndWait, spawnTracked } from '../support/processes.js';
import { suiteDirectory } from '../support/vitest.js';

const ROOT = path.join(import.meta.dirname, '../..');
const SOURCES = ['process_memory', 'soft_dirty', 'write_protection'];
const TIMEOUT_MS = 150_000;

const dir = suiteDirectory();

it('tracks writes by soft-dirty bits, is not harmed by a program that is killed, and names who may not trace', async () => {
  const files = path.join(dir, 'files');
  const log = path.join(dir, 'console.log');
  execFileSync('mkdir', [files]);
  const sources = SOURCES.map((name) => path.join(ROOT, `native/core/${name}.cc`));
  const own = [path.join(import.meta.dirname, 'old-kernel.cc'), '-o', path.join(files, 'init')];
  const include = ['-I', path.join(ROOT, 'native')];
  execFileSync('g++', ['-std=c++20', '-O1', '-Wall', '-Werror', '-static', ...include, ...sources, ...own]);
  const traced = path.join(ROOT, 'test/unit/native/traced-process.c');
  execFileSync('cc', ['-O1', '-static', '-pthread', '-o', path.join(files, 'traced-process'), traced]);
  copyFileSync(TRACKER_PATH, path.join(files, 'vmckpt-tracker'));
  const initrd = path.join(dir, 'initrd');
  execFileSync('sh', ['-c', `cd '${files}' && find . | cpio --quiet -o -H newc > '${initrd}'`]);

  const { pid } = spawnTracked(
    [
      qemuBinary('system'),
      ...['-machine', 'q35,accel=tcg', '-cpu', 'max', '-m', '256', '-nodefaults', '-no-user-config'],
      ...['-display', 'none', '-no-reboot', '-serial', `file:${log}`],
      ...['-kernel', guestFile('vmlinuz'), '-initrd', initrd],
      ...['-append', 'console=ttyS0 quiet panic=-1 transparent_hugepage=madvise'],
    ],
    path.join(dir, 'qemu.log'),
  );
  try {
    const lines = await poll(() => resultsIn(log), {
      what: 'the guest to end',
      timeoutMs: TIMEOUT_MS,
      everyMs: 100,
    });
    const trials = [
      'kernel',
      'writes',
      'given back',
      'one memory',
      'one memory of huge pages',
      'killed trackers',
      'Yama',
    ];
    expect(lines).toEqual(trials.map((name) => `ok ${name}`));
  } finally {
    await killAndWait(pid);
  }
});

/** Undefined until all of them stand there. */
function resultsIn(log: string): string[] | undefined {
  if (!existsSync(log)) return undefined;
  const lines = readFileSync(log, 'latin1').split(/\r?\n/);
  return lines.includes('end') ? lines.filter((line) => /^(not )?ok /.test(line)) : undefined;
}
