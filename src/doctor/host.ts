/** The kernel and the addon. Files and system calls are tried where that is harmless, not guessed from versions. */
import { spawnSync } from 'node:child_process';
import { accessSync, closeSync, constants, readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import {
  addonProblem,
  addonRemedy,
  hasAddon,
  pidfdGetfd,
  pidfdOpen,
  RECEIVER_PATH,
} from '../native/index.js';
import type { Finding } from './finding.js';
import { asRoot } from '../util/rights.js';

const CAP_SYS_PTRACE = 19n;

export function examineAddon(): Finding {
  const check = { check: 'addon', title: 'Native addon' };
  const problem = addonProblem();
  if (problem !== undefined)
    return {
      ...check,
      status: 'warn',
      found: `there is none: ${problem}`,
      meaning:
        "Memory of restored VMs goes through QEMU's stream, which is slower; restore --path direct, uffd and rescue do not work. See docs/without-addon.md.",
      remedy: addonRemedy(),
    };
  try {
    accessSync(RECEIVER_PATH, constants.X_OK);
    return { ...check, status: 'ok', found: `in ${path.dirname(RECEIVER_PATH)}, with its helper programs` };
  } catch (error) {
    return {
      ...check,
      status: 'fail',
      found: (error as Error).message,
      meaning: 'vmckpt can neither save nor restore.',
      remedy: addonRemedy(),
    };
  }
}

/** Perl makes the system calls that Node.js lacks. It is needed only without the addon. */
export function examinePerl(): Finding[] {
  if (hasAddon()) return [];
  const check = { check: 'perl', title: 'Perl, in place of the addon' };
  const { stdout, error } = spawnSync('perl', ['-e', 'print $^V'], { encoding: 'utf8' });
  if (error === undefined) return [{ ...check, status: 'ok', found: stdout }];
  return [
    {
      ...check,
      status: 'fail',
      found: error.message,
      meaning: 'Without the addon and Perl, nothing works that takes a lock or connects to QEMU.',
      remedy: 'apt install perl-base',
    },
  ];
}

export function examineKernel(): Finding {
  const check = { check: 'kernel', title: 'Kernel' };
  const found = `Linux ${os.release()}`;
  if (!hasAddon()) return { ...check, status: 'ok', found };
  try {
    const pidfd = pidfdOpen(process.pid);
    try {
      closeSync(pidfdGetfd(pidfd, pidfd));
    } finally {
      closeSync(pidfd);
    }
    return { ...check, status: 'ok', found: `${found}, with pidfd_getfd` };
  } catch (error) {
    return {
      ...check,
      status: 'warn',
      found: `${found}, without pidfd_getfd (${(error as NodeJS.ErrnoException).code ?? String(error)})`,
      meaning: 'vmckpt rescue and vmckpt stop do not work here.',
      remedy:
        'Use Linux 5.7 or later; in a container, a seccomp profile that allows pidfd_open and pidfd_getfd.',
    };
  }
}

/** Reading a running VM from outside, and `rescue`, need the right to trace other processes. */
export function examineTracing(): Finding {
  const check = { check: 'ptrace', title: 'Tracing of other processes' };
  const scope = Number(readOptional('/proc/sys/kernel/yama/ptrace_scope') ?? '0');
  const found = `ptrace_scope ${scope}${hasTraceCapability() ? ', with CAP_SYS_PTRACE' : ''}`;
  if (scope === 0 || (scope < 3 && hasTraceCapability())) return { ...check, status: 'ok', found };
  return {
    ...check,
    status: 'warn',
    found,
    meaning:
      'This user saves running VMs through the migration stream of QEMU, and cannot free a VM that a broken live save has frozen.',
    remedy:
      scope < 3
        ? `${asRoot('Run `vmckpt rescue PID`', 'CAP_SYS_PTRACE')}, should it come to that.`
        : 'set kernel.yama.ptrace_scope=1 and boot again',
  };
}

function hasTraceCapability(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readOptional('/proc/self/status') ?? '')?.[1];
  return effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_SYS_PTRACE) & 1n) === 1n;
}

function readOptional(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
