/** The control groups of a process, version 1 and 2: cgroups(7). */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

export interface ControlGroup {
  /** Empty for version 2. */
  readonly controllers: readonly string[];
  /** Path within the hierarchy: `/system.slice/ssh.service`. */
  readonly path: string;
  /** Mount point of the hierarchy. */
  readonly mountPoint: string;
  /** Folder of the group's files. */
  readonly folder: string;
}

/** The groups whose files are accessible; none where control groups are not mounted. */
export function controlGroupsOf(pid: number | 'self'): ControlGroup[] {
  const mounts = groupMounts();
  return readLines(`/proc/${pid}/cgroup`).flatMap((line) => {
    const [, list = '', ...rest] = line.split(':');
    const group = rest.join(':');
    const controllers = list === '' ? [] : list.split(',');
    const mount = mounts.find((each) => sameHierarchy(each.options, controllers));
    if (mount === undefined || !isBelow(group, mount.root)) return [];
    const folder = path.join(mount.mountPoint, path.relative(mount.root, group));
    if (!existsSync(folder)) return [];
    return [{ controllers, path: group, mountPoint: mount.mountPoint, folder }];
  });
}

interface GroupMount {
  /** The part of the hierarchy that is mounted there. */
  readonly root: string;
  readonly mountPoint: string;
  /** Undefined for version 2. */
  readonly options: readonly string[] | undefined;
}

function groupMounts(): GroupMount[] {
  return readLines('/proc/self/mountinfo').flatMap((line) => {
    const [mount = '', system = ''] = line.split(' - ');
    const [, , , root = '/', mountPoint = ''] = mount.split(' ');
    const [type, , options = ''] = system.split(' ');
    if (type !== 'cgroup' && type !== 'cgroup2') return [];
    return [{ root, mountPoint, options: type === 'cgroup2' ? undefined : options.split(',') }];
  });
}

function sameHierarchy(options: readonly string[] | undefined, controllers: readonly string[]): boolean {
  if (options === undefined || controllers.length === 0)
    return options === undefined && controllers.length === 0;
  return controllers.every((controller) => options.includes(controller));
}

function isBelow(group: string, root: string): boolean {
  return !path.relative(root, group).startsWith('..') && !group.includes('/..');
}

function readLines(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').trimEnd().split('\n');
  } catch {
    return [];
  }
}
