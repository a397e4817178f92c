/**
 * A restored VM must outlive the service, the timer, the cron job or the session that has restored it, as far as these end by
 * killing a control group: its processes leave the group of the verb. Where systemd is at work they get a scope of their
 * own from it, elsewhere they go to a group beside the verb's. What cannot leave stays, and the caller is told why.
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
/** Beside the verb's own group, where there is no systemd. */
const GROUP_NAME = 'vmckpt';
const ANSWER_TIMEOUT_MS = 10_000;
/** A process that ends meanwhile makes systemd refuse all of them. */
const ATTEMPTS = 3;

/** Everything that this process has started, and that is still where it is. @returns why it stays, else undefined */
export async function leaveControlGroup(): Promise<string | undefined> {
  const groups = killableGroups('self');
  if (groups.length === 0) return undefined;
  if (!existsSync(SYSTEMD)) {
    for (const group of groups) moveBeside(group, staying(groups));
    return undefined;
  }
  const unit = path.basename(groups[0]!.path);
  const isUser = process.getuid?.() !== 0;
  // A session may be left alone when it ends; the user's own manager ends then, unless it lingers.
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
  /** Of the verb. One that saves the VM when it is stopped has to be stopped before QEMU is, as at shutdown. */
  readonly unit: string;
  /** Of the user's own manager. */
  readonly isUser: boolean;
}

/** Arguments of busctl(1) for a scope that these processes are moved to. */
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

/** Those by which processes are killed together: of version 2, and systemd's in version 1; never the root. */
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
      // It has just ended.
    }
  }
  const found = [process.pid];
  for (const ancestor of found) for (const [pid, parent] of parents) if (parent === ancestor) found.push(pid);
  return found.slice(1);
}

/** Where this user may: a process that has ended, or a group that belongs to others, is passed over. */
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
      // It stays where it is.
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
