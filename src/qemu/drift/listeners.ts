/**
 * Sockets on which a process listens but which its command line does not name: servers that were started at run time.
 */
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { VNC_BASE_PORT, VNC_WEBSOCKET_PORT } from '../host-visit.js';

const LISTENING = '0A';
const ACCEPTS = '00010000';

/** @returns `TCP port 10809`, `the socket /run/x`; none if this user may not inspect the process */
export function unexplainedListeners(pid: number, args: readonly string[]): string[] {
  try {
    const sockets = socketsOf(pid);
    const ports = ['tcp', 'tcp6'].flatMap((table) => listeningPorts(pid, table, sockets));
    const found = [...new Set(ports)]
      .filter((port) => !namesPort(args, port))
      .map((port) => `TCP port ${port}`);
    const paths = listeningPaths(pid, sockets).filter((path) => !namesPath(args, path));
    return [...found, ...paths.map((path) => `the socket ${path}`)];
  } catch {
    return [];
  }
}

function socketsOf(pid: number): ReadonlySet<string> {
  const inodes = readdirSync(`/proc/${pid}/fd`).flatMap((fd) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1] ?? [];
    } catch {
      return []; // closed in the meantime
    }
  });
  return new Set(inodes);
}

function rowsOf(pid: number, table: string): string[][] {
  const rows = readFileSync(`/proc/${pid}/net/${table}`, 'utf8').split('\n').slice(1);
  return rows.map((row) => row.trim().split(/\s+/));
}

function listeningPorts(pid: number, table: string, sockets: ReadonlySet<string>): number[] {
  return rowsOf(pid, table).flatMap((row) => {
    const [, local = '', , state] = row;
    const isOurs = state === LISTENING && sockets.has(row[9] ?? '');
    return isOurs ? [Number.parseInt(local.slice(local.lastIndexOf(':') + 1), 16)] : [];
  });
}

function listeningPaths(pid: number, sockets: ReadonlySet<string>): string[] {
  return rowsOf(pid, 'unix').flatMap(([, , , flags, , , inode = '', path]) =>
    flags === ACCEPTS && path !== undefined && sockets.has(inode) ? [path] : [],
  );
}

/**
 * Any mention counts: a port, or a display above a base port. If QEMU looks for a free port itself, every port
 * counts.
 */
function namesPort(args: readonly string[], port: number): boolean {
  if (port === 1234 && args.some((word) => /^--?s$/.test(word))) return true;
  const numbers = [port, port - VNC_BASE_PORT, port - VNC_WEBSOCKET_PORT].filter((number) => number >= 0);
  return args.some(
    (word) =>
      /(^|,)to=|:0([-,]|$)|port=0(,|$)/.test(word) ||
      numbers.some((number) => new RegExp(`(^|\\D)${number}(\\D|$)`).test(word)),
  );
}

function namesPath(args: readonly string[], path: string): boolean {
  const name = path.slice(path.lastIndexOf('/') + 1).replace(/^@/, '');
  return args.some((word) => word.replaceAll(',,', ',').includes(name));
}
