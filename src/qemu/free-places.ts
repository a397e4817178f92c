/** Ports and ids of this host that nobody has. What was found once is not given out again by this process. */
import { randomInt } from 'node:crypto';
import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { VmckptError } from '../errors.js';
import { canBind, vsockTaken } from './collisions.js';
import type { PortAddress } from './host-visit.js';

const MAX_PORT = 0xffff;
/** Below lie ids that people choose. */
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

/** Whether nobody had it before. */
function take(what: string): boolean {
  if (given.has(what)) return false;
  given.add(what);
  return true;
}

/** The one that is to be replaced is not free, even while nobody has it. */
async function firstFreePort(address: PortAddress): Promise<number | undefined> {
  const { protocol, host, lowest } = address;
  for (let port = lowest; port <= MAX_PORT; port++) {
    if (port === address.port || given.has(`${protocol} ${port}`)) continue;
    if ((await canBind({ kind: 'port', protocol, host, port })) && take(`${protocol} ${port}`)) return port;
  }
  return undefined;
}

/** Whichever the kernel chooses. What it chose in vain is held meanwhile, so that it chooses another one. */
async function anyFreePort({ protocol, host, port: before }: PortAddress): Promise<number | undefined> {
  const held: Listener[] = [];
  try {
    for (;;) {
      const listener = await listenAnywhere(protocol, host);
      if (listener === undefined) return undefined;
      held.push(listener);
      const { port } = listener.address() as net.AddressInfo;
      if (port !== before && take(`${protocol} ${port}`)) return port;
    }
  } finally {
    await Promise.all(
      held.map((listener) => new Promise<void>((resolve) => listener.close(() => resolve()))),
    );
  }
}

type Listener = net.Server | dgram.Socket;

/** @returns undefined when no port is left */
async function listenAnywhere(protocol: 'tcp' | 'udp', host: string): Promise<Listener | undefined> {
  const listener =
    protocol === 'tcp' ? net.createServer() : dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
  try {
    const listening = once(listener, 'listening');
    if (listener instanceof net.Server) listener.listen({ port: 0, ...(host !== '' && { host }) });
    else listener.bind({ port: 0, ...(host !== '' && { address: host }), exclusive: true });
    await listening;
    return listener;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EADDRINUSE') return undefined;
    throw new VmckptError('COLLISION', `${protocol} ports of ${host} cannot be had on this host`, {
      cause: error,
    });
  }
}
