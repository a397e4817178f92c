/**
 * Services, timers, cron jobs and sessions may end by killing their control group. A restored VM must outlive them,
 * so its processes leave the verb's group. Under systemd they get a scope of their own; elsewhere they move to a
 * group next to the verb's. Processes that cannot leave stay, and the caller learns why.
 */
import { execFile } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { controlGroupsOf, type ControlGroup } from './control-groups.js';
import { randomU32 } from './random.js';

const SYSTEMD = '/run/systemd/system';
const SYSTEMD_HIERARCHY = 'name=systemd';
/** Next to the verb's own group, where there is no systemd. */
const GROUP_NAME = 'vmckpt';
const ANSWER_TIMEOUT_MS = 10_000;
/** If a process ends in the meantime, systemd refuses the whole request. */
const ATTEMPTS = 3;

/**
 * Moves everything that this process has started and that is still in its group. @returns why it stays, or undefined
 */
export async function leaveControlGroup(): Promise<string | undefined> {
  const groups = killableGroups('self');
  if (groups.length === 0) return undefined;
  if (!existsSync(SYSTEMD)) {
    for (const group of groups) moveBeside(group, staying(groups));
    return undefined;
  }
  const unit = path.basename(groups[0]!.path);
  const isUser = process.getuid?.() !== 0;
  // Sessions may end without killing. But then the user's own manager ends, unless the user lingers.
  if (isUser && /\.scope$/.test(unit) && !lingers()) return undefined;
  let problem: unknown;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const pids = staying(groups);
    if (pids.length === 0) return undefined;
    try {
      await promisify(execFile)('busctl', scopeRequest({ pids, unit, isUser }), {
        timeout: ANSWER_TIMEOUT_MS,
        env: { ...process.env, ...(isUser && { XDG_RUNTIME_DIR: `/run/user/${process.getuid!()}` }) },
      });
      return undefined;
    } catch (error) {
      problem = error;
    }
  }
  return `The VM stays in the control group of ${unit}, and ends with it unless that has KillMode=process: ${lastLine(problem)}`;
}

export interface Scope {
  readonly pids: readonly number[];
  /**
   * The verb's unit. If that unit saves the VM when it is stopped, it must be stopped before QEMU is, as at shutdown.
   */
  readonly unit: string;
  /** The unit belongs to the user's own manager. */
  readonly isUser: boolean;
}

/** Arguments of busctl(1) that create a scope with these processes. */
export function scopeRequest({ pids, unit, isUser }: Scope): string[] {
  const before = unit.endsWith('.service') ? ['Before', 'as', '1', unit] : [];
  const manager = 'org.freedesktop.systemd1';
  return [
    ...(isUser ? ['--user'] : []),
    ...['call', manager, '/org/freedesktop/systemd1', `${manager}.Manager`],
    ...[
      'StartTransientUnit',
      'ssa(sv)a(sa(sv))',
      `vmckpt-${pids[0]}-${randomU32().toString(16)}.scope`,
      'fail',
    ],
    ...[before.length > 0 ? '4' : '3', 'PIDs', 'au', String(pids.length), ...pids.map(String), ...before],
    ...['Description', 's', 'A virtual machine restored by vmckpt'],
    ...['CollectMode', 's', 'inactive-or-failed', '0'],
  ];
}

/** The groups by which processes are killed together: version 2's, and systemd's in version 1; never the root. */
function killableGroups(pid: number | 'self'): ControlGroup[] {
  return controlGroupsOf(pid).filter(
    ({ controllers, folder, mountPoint }) =>
      folder !== mountPoint && (controllers.length === 0 || controllers.includes(SYSTEMD_HIERARCHY)),
  );
}

/** Descendants of this process that are in one of its groups. */
function staying(groups: readonly ControlGroup[]): number[] {
  const own = new Set(groups.map(({ folder }) => folder));
  return descendants().filter((pid) => killableGroups(pid).some(({ folder }) => own.has(folder)));
}

function descendants(): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'latin1');
      parents.set(Number(entry), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]));
    } catch {
      // The process has just ended.
    }
  }
  const found = [process.pid];
  for (const ancestor of found) for (const [pid, parent] of parents) if (parent === ancestor) found.push(pid);
  return found.slice(1);
}

/** Skips processes that have ended, and groups that belong to other users. */
function moveBeside({ folder }: ControlGroup, pids: readonly number[]): void {
  const beside = path.join(path.dirname(folder), GROUP_NAME);
  try {
    if (!existsSync(beside)) mkdirSync(beside);
  } catch {
    return;
  }
  for (const pid of pids) {
    try {
      writeFileSync(path.join(beside, 'cgroup.procs'), String(pid));
    } catch {
      // The process stays where it is.
    }
  }
}

/** loginctl enable-linger */
function lingers(): boolean {
  return existsSync(path.join('/var/lib/systemd/linger', os.userInfo().username));
}

function lastLine(error: unknown): string {
  const { stderr = '', message } = error as { readonly stderr?: string; readonly message: string };
  return (stderr.trim() === '' ? message : stderr.trim()).split('\n').at(-1)!;
}
