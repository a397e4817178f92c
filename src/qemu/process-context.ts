/**
 * Where a QEMU runs: its user, its namespaces and root folder, its control group, its tap interfaces. The names in its
 * command line have their meaning only there.
 */
import { readFileSync, readlinkSync, statSync } from 'node:fs';
import type { Places, ProcessContext } from '../util/process-schema.js';
import { propertyOf, type Option } from './command-line.js';

const NAMESPACES = {
  mnt: 'mount namespace',
  net: 'network namespace',
  pid: 'PID namespace',
  user: 'user namespace',
} as const;
const ROOT = 'root folder';
/** Source: linux/if_tun.h. */
const IFF_PERSIST = 0x0800;

export function readProcessContext(
  pid: number,
  options: readonly Option[],
): Omit<ProcessContext, 'lostImages'> {
  const places = placesOf(pid);
  const elsewhere = differingPlaces(places, placesOf('self'));
  const isNear = !elsewhere.includes(NAMESPACES.net);
  return {
    ...executableOf(pid),
    ...readUser(pid),
    bootId: bootId(),
    places,
    elsewhere,
    ...cgroupOf(pid),
    taps: isNear ? tapNames(options).map((name) => ({ name, persistent: isPersistent(name) })) : [],
  };
}

/** If a program is replaced while it runs, its name leads to the replacement. */
function executableOf(pid: number): Pick<ProcessContext, 'executable'> {
  const executable = attempt(() => readlinkSync(`/proc/${pid}/exe`));
  return executable === undefined ? {} : { executable: executable.replace(/ \(deleted\)$/, '') };
}

/** The namespaces and folders of a process; unreadable ones are left out. */
export function placesOf(pid: number | 'self'): Places {
  const places: Places = {};
  for (const [kind, place] of Object.entries(NAMESPACES)) {
    const id = attempt(() => readlinkSync(`/proc/${pid}/ns/${kind}`));
    if (id !== undefined) places[place] = id;
  }
  const root = attempt(() => statSync(`/proc/${pid}/root/`, { bigint: true }));
  if (root !== undefined) places[ROOT] = `${root.dev}:${root.ino}`;
  return places;
}

/** The ones that are known for both and differ. */
export function differingPlaces(one: Places, other: Places): string[] {
  return Object.keys(one).filter((place) => other[place] !== undefined && other[place] !== one[place]);
}

export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}

/** Undefined where the host does not list its interfaces. */
export function hasInterface(name: string): boolean | undefined {
  if (attempt(() => statSync('/sys/class/net/lo')) === undefined) return undefined;
  return attempt(() => statSync(`/sys/class/net/${name}`)) !== undefined;
}

/** Tap interfaces that the command line names. */
export function tapNames(options: readonly Option[]): string[] {
  return options.flatMap((option) => {
    const name = isTap(option) ? propertyOf(option, 'ifname') : undefined;
    return name === undefined || name.includes('%') || name.includes('/') ? [] : [name];
  });
}

export function isTap(option: Option): boolean {
  return ['netdev', 'nic', 'net'].includes(option.name) && propertyOf(option, 'type') === 'tap';
}

/** If an interface is gone while QEMU has it open, another program removed it. */
function isPersistent(name: string): boolean {
  if (hasInterface(name) === false) return true;
  const flags = attempt(() => readFileSync(`/sys/class/net/${name}/tun_flags`, 'latin1'));
  return (Number(flags ?? 0) & IFF_PERSIST) !== 0;
}

/** The effective ids. */
function readUser(pid: number): Pick<ProcessContext, 'uid' | 'gid' | 'groups'> {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  const numbers = (field: string) => {
    const text = new RegExp(`^${field}:(.*)$`, 'm').exec(status)?.[1] ?? '';
    return text.split(/\s+/).filter(Boolean).map(Number);
  };
  const [, uid = 0] = numbers('Uid');
  const [, gid = 0] = numbers('Gid');
  return { uid, gid, groups: numbers('Groups') };
}

function cgroupOf(pid: number): { cgroup?: string } {
  const text = attempt(() => readFileSync(`/proc/${pid}/cgroup`, 'utf8'));
  const cgroup = /^0::(\/.*)$/m.exec(text ?? '')?.[1];
  return cgroup === undefined ? {} : { cgroup };
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
