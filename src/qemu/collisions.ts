/** Finds what would prevent a restore, before QEMU is started: the original VM, addresses, files. */
import dgram from 'node:dgram';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { isAlive, identifyProcess, type ProcessIdentity } from '../util/process-identity.js';
import { collisionCandidates, type Claim } from './host-resources.js';
import type { HostResource } from './host-visit.js';
import { imagesWrittenTo, sharesImages } from './image-locks.js';

const PROBE_TIMEOUT_MS = 1000;

export interface Collision {
  readonly what: 'original' | 'image' | HostResource['kind'];
  readonly message: string;
  readonly hint: string;
}

export interface CollisionOptions {
  /** The QEMU that was saved. */
  readonly original?: ProcessIdentity | undefined;
  /** The folder from which relative paths in the arguments are resolved. */
  readonly cwd?: string | undefined;
  /** The VM's disks. */
  readonly images?: readonly string[];
}

/**
 * @param args as QEMU will get them, rewritten for the restore. @returns the original first, because it causes others
 */
export async function findCollisions(
  args: readonly string[],
  options: CollisionOptions,
): Promise<Collision[]> {
  const { original, cwd = process.cwd(), images = [] } = options;
  const found: (Collision | undefined)[] = [];
  if (original !== undefined && isAlive(original))
    found.push({
      what: 'original',
      message: `the VM that was saved still runs, as process ${original.pid}`,
      hint: 'End it first (quit in its monitor), or start a clone next to it: restore --as VMNAME.',
    });
  for (const image of sharesImages(args) ? [] : imagesWrittenTo(images, cwd))
    found.push({
      what: 'image',
      message: `another process writes to the disk ${image}`,
      hint: `End it (fuser ${image} shows it), or give the VM a disk of its own: vmckpt restore NAME -- QEMU ARGS…`,
    });
  const look = async ({ option, resource }: Claim): Promise<Collision | undefined> => {
    const taken = await whyTaken(resource);
    return taken === undefined
      ? undefined
      : { what: resource.kind, message: `${option}: ${taken}`, hint: HINTS[resource.kind] };
  };
  // Ports are checked one after the other, because the check binds each for a moment.
  let port: Promise<unknown> = Promise.resolve();
  const looks = collisionCandidates(args, cwd).map((claim) => {
    if (claim.resource.kind !== 'port') return look(claim);
    const next = port.then(() => look(claim));
    port = next;
    return next;
  });
  found.push(...(await Promise.all(looks)));
  return found.filter((collision) => collision !== undefined);
}

/** @throws VmckptError COLLISION that names all of them */
export async function refuseCollisions(args: readonly string[], options: CollisionOptions): Promise<void> {
  const [first, ...others] = await findCollisions(args, options);
  if (first === undefined) return;
  const message = [first, ...others].map((collision) => collision.message).join('; ');
  throw new VmckptError('COLLISION', `the VM cannot start here: ${message}`, { hint: first.hint });
}

const CHANGE = 'give a command line that uses another one: vmckpt restore NAME -- QEMU ARGS…';
const HINTS: Readonly<Record<HostResource['kind'], string>> = {
  port: `End the program that listens there (ss -lntup shows it), or ${CHANGE}`,
  socket: `End the program that listens there (ss -lxp shows it), or move the file away, or ${CHANGE}`,
  pidfile: `End that process, or ${CHANGE}`,
  tap: `End the VM that has it, or ${CHANGE}`,
  vsock: `End the VM that has it, or ${CHANGE}`,
  memoryFile: `End that process, or ${CHANGE}`,
};

async function whyTaken(resource: HostResource): Promise<string | undefined> {
  switch (resource.kind) {
    case 'port':
      return (await canBind(resource)) ? undefined : `${resource.protocol} port ${resource.port} is in use`;
    case 'socket':
      return socketTaken(resource.path);
    case 'pidfile':
      return pidfileTaken(resource.path);
    case 'tap':
      // A tap has a carrier exactly while a process has it open.
      return readText(`/sys/class/net/${path.basename(resource.interface)}/carrier`) === '1'
        ? `the tap interface ${resource.interface} is in use`
        : undefined;
    case 'vsock':
      return vsockTaken(resource.cid);
    case 'memoryFile':
      return memoryFileTaken(resource.path);
  }
}

/** Only "in use" counts. QEMU, which may have other rights, reports other failures. */
export async function canBind({
  protocol,
  host,
  port,
}: Extract<HostResource, { kind: 'port' }>): Promise<boolean> {
  const address = host === '' ? {} : protocol === 'tcp' ? { host } : { address: host };
  const socket =
    protocol === 'tcp' ? net.createServer() : dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
  try {
    const listening = once(socket, 'listening');
    if (socket instanceof net.Server) socket.listen({ port, ...address });
    else socket.bind({ port, ...address, exclusive: true });
    await listening;
    await new Promise<void>((resolve) => socket.close(() => resolve()));
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EADDRINUSE';
  }
}

/** QEMU removes whatever is at the path of a socket on which it listens. */
async function socketTaken(file: string): Promise<string | undefined> {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (stat === undefined) return undefined;
  if (!stat.isSocket()) return `${file} is not a socket, and QEMU would delete it`;
  const socket = net.connect({ path: file });
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(PROBE_TIMEOUT_MS) });
    return `another process listens at ${file}`;
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException;
    if (code === 'EACCES') return `${file} is a socket that this user may not connect to`;
    return ['ECONNREFUSED', 'ENOENT'].includes(code) ? undefined : `another process listens at ${file}`;
  } finally {
    socket.destroy();
  }
}

function pidfileTaken(file: string): string | undefined {
  const pid = Number(readText(file) ?? Number.NaN);
  if (!Number.isInteger(pid) || pid <= 0 || identifyProcess(pid) === undefined) return undefined;
  // The number may have been reused since: a process without -pidfile in its command line does not count.
  if (readText(`/proc/${pid}/cmdline`)?.includes('-pidfile\0') === false) return undefined;
  return `the pid file ${file} names the running process ${pid}`;
}

/** The kernel does not list the ids in use, but the other VMs' command lines show them. */
export function vsockTaken(cid: number): string | undefined {
  for (const pid of runningProcesses()) {
    const words = readText(`/proc/${pid}/cmdline`)?.split('\0') ?? [];
    const has = words.some((word, index) => words[index - 1]?.endsWith('-device') && vsockCid(word) === cid);
    if (has) return `process ${pid} has the vsock id ${cid}`;
  }
  return undefined;
}

function runningProcesses(): string[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name));
}

function vsockCid(text: string): number | undefined {
  const match = /guest-cid["=: ]+(\d+)/.exec(text);
  return match === null ? undefined : Number(match[1]);
}

/** Such a file is not locked, but a process that has it mapped would find another VM's memory in it. */
function memoryFileTaken(file: string): string | undefined {
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat?.isFile()) return undefined;
  const [major, minor] = [(stat.dev >>> 8) & 0xfff, (stat.dev & 0xff) | ((stat.dev >>> 12) & 0xfff00)];
  const hex = (number: number): string => number.toString(16).padStart(2, '0');
  const mapping = ` ${hex(major)}:${hex(minor)} ${stat.ino} `;
  const owner = runningProcesses().find((pid) => readText(`/proc/${pid}/maps`)?.includes(mapping));
  return owner === undefined ? undefined : `process ${owner} has its memory in the file ${file}`;
}

function readText(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return undefined;
  }
}
