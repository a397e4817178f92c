/** Free ports and ids of this host. This process hands out each of them only once. */
import { randomInt } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { VmckptError } from '../errors.js';
import { canBind, vsockTaken } from './collisions.js';
import { portsOf, type PortAddress } from './host-visit.js';

const MAX_PORT = 0xffff;
/** People choose ids below this. */
const FIRST_VSOCK_ID = 1 << 16;

const given = new Set<string>();

/** A port for the same protocol and address. @throws VmckptError COLLISION when none is free */
export async function freePort(address: PortAddress): Promise<number> {
  const port = address.lowest > 1 ? await firstFreePort(address) : await anyFreePort(address);
  if (port !== undefined) return port;
  const { protocol, host, lowest } = address;
  const from = lowest > 1 ? ` from ${lowest} on` : '';
  throw new VmckptError('COLLISION', `no ${protocol} port is free at ${host || 'this host'}${from}`, {
    hint: 'End other programs, or widen the range: sysctl net.ipv4.ip_local_port_range.',
  });
}

export function freeVsockId(): number {
  for (;;) {
    const id = randomInt(FIRST_VSOCK_ID, 2 ** 31);
    if (vsockTaken(id) === undefined && take(`vsock ${id}`)) return id;
  }
}

/** Whether this process has not handed it out before. */
function take(what: string): boolean {
  if (given.has(what)) return false;
  given.add(what);
  return true;
}

/** The port that is being replaced counts as taken, even if it is free. */
async function firstFreePort(address: PortAddress): Promise<number | undefined> {
  for (let port = address.lowest; port <= MAX_PORT; port++) if (await takePort(address, port)) return port;
  return undefined;
}

/** A port from the kernel's range for automatic ports, starting at a random one. */
async function anyFreePort(address: PortAddress): Promise<number | undefined> {
  const [first, last] = portRange();
  const count = last - first + 1;
  const start = randomInt(count);
  for (let step = 0; step < count; step++) {
    const port = first + ((start + step) % count);
    if (await takePort(address, port)) return port;
  }
  return undefined;
}

/** A port that was handed out is not tried: its new owner may be about to listen there. */
async function takePort(address: PortAddress, port: number): Promise<boolean> {
  const { protocol, host } = address;
  const names = portsOf({ ...address, port }).map((each) => `${protocol} ${each}`);
  if (port === address.port || names.some((name) => given.has(name))) return false;
  for (const each of portsOf({ ...address, port }))
    if (!(await canBind({ kind: 'port', protocol, host, port: each }))) return false;
  return names.every(take);
}

/** ip_local_port_range, ip(7). */
function portRange(): readonly [number, number] {
  const [first, last] = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8')
    .split(/\s+/)
    .map(Number);
  return [first!, last!];
}
