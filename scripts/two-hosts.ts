/**
 * Two hosts that know each other by name, alpha and beta: network namespaces with a cable between them. What tells one
 * run of a kernel from another, its boot id, is beta's own. They share everything else with this host, and end with this
 * process.
 */
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';

const ADDRESSES = { alpha: '10.77.0.1', beta: '10.77.0.2' } as const;
export type Host = keyof typeof ADDRESSES;

export interface Hosts {
  /** The words before a command that runs it there. */
  enter(host: Host): string[];
}

/**
 * @param dir for files of theirs
 * @throws when this user may not make network namespaces
 */
export function joinHosts(dir: string): Hosts {
  const namespaceOf = (host: Host): string => `vmckpt-${process.pid}-${host}`;
  const hosts = Object.keys(ADDRESSES) as Host[];
  process.once('exit', () => hosts.forEach((host) => remove(namespaceOf(host))));
  for (const host of hosts) {
    ip('netns', 'add', namespaceOf(host));
    nameNeighbours(namespaceOf(host));
  }
  const [here, there] = hosts.map(namespaceOf) as [string, string];
  ip('link', 'add', 'cable', 'netns', here, 'type', 'veth', 'peer', 'name', 'cable', 'netns', there);
  for (const host of hosts) {
    const within = ['-n', namespaceOf(host)];
    ip(...within, 'address', 'add', `${ADDRESSES[host]}/24`, 'dev', 'cable');
    for (const link of ['lo', 'cable']) ip(...within, 'link', 'set', link, 'up');
  }
  const bootId = path.join(dir, 'boot-id');
  writeFileSync(bootId, `${randomUUID()}\n`);
  const enter = (host: Host): string[] => ['ip', 'netns', 'exec', namespaceOf(host)];
  return { enter: (host) => (host === 'beta' ? [...enter(host), ...asOfAnotherBoot(bootId)] : enter(host)) };
}

/** In the mount namespace that `ip netns exec` makes. */
function asOfAnotherBoot(bootId: string): string[] {
  const mount = `mount --bind "$0" /proc/sys/kernel/random/boot_id; exec "$@"`;
  return ['bash', '-euc', mount, bootId];
}

/** `ip netns exec` puts this file in the place of /etc/hosts. */
function nameNeighbours(namespace: string): void {
  const dir = path.join('/etc/netns', namespace);
  mkdirSync(dir, { recursive: true });
  const lines = Object.entries(ADDRESSES).map(([host, address]) => `${address} ${host}\n`);
  writeFileSync(path.join(dir, 'hosts'), ['127.0.0.1 localhost\n', ...lines].join(''));
}

function remove(namespace: string): void {
  try {
    ip('netns', 'delete', namespace);
  } catch {
    // It was not made.
  }
  rmSync(path.join('/etc/netns', namespace), { recursive: true, force: true });
}

function ip(...args: string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] });
}
