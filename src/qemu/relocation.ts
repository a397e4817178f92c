/**
 * Moves everything that a QEMU takes for itself on the host (listening sockets, ports, ids, files that it writes) to
 * other places. Everything else stays exactly as it is, so the guest sees the same machine. host-resources.ts defines
 * what there is to move.
 */
import type { Option } from './command-line.js';
import { STAYING, visitHost } from './host-resources.js';
import { VNC_BASE_PORT, type HostVisitor, type PortAddress } from './host-visit.js';

/** Functions that map a present place to the new one, which may be the same. */
export interface Places {
  readonly file: (path: string) => string;
  readonly port: (address: PortAddress) => number;
  readonly vsockId: (id: number) => number;
}

/** Something that is in a different place than in the saved command line. */
export interface Moved {
  readonly what: 'socket' | 'file' | 'port' | 'display' | 'vsock id';
  /** The option that has it: `-netdev`. */
  readonly option: string;
  readonly from: string;
  readonly to: string;
}

export function relocate(
  options: readonly Option[],
  places: Places,
): { readonly options: Option[]; readonly moved: readonly Moved[] } {
  const moved: Moved[] = [];
  const relocated = options.map((option) => visitHost(option, mover(option, places, moved)));
  return { options: relocated, moved };
}

function mover({ name }: Option, places: Places, moved: Moved[]): HostVisitor {
  const note = <T>(what: Moved['what'], from: T, to: T, text: (place: T) => string = String): T => {
    if (from !== to) moved.push({ what, option: `-${name}`, from: text(from), to: text(to) });
    return to;
  };
  return {
    ...STAYING,
    socket: (path) => note('socket', path, places.file(path)),
    file: (path) => note('file', path, places.file(path)),
    pidfile: (path) => note('file', path, places.file(path)),
    port: (address, isDisplay) => {
      const host = address.host.includes(':') ? `[${address.host}]` : address.host;
      const written = (port: number) => `${host}:${isDisplay ? port - VNC_BASE_PORT : port}`;
      return note(isDisplay ? 'display' : 'port', address.port, places.port(address), written);
    },
    vsockId: (id) => note('vsock id', id, places.vsockId(id)),
  };
}
