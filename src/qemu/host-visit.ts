/** One option of a command line while the table of host resources (host-resources.ts) processes it. */
import { characterDeviceOf } from './character-device.js';
import { mapValues, propertyOf, type Option, type Property } from './command-line.js';

/** Something that QEMU takes for itself, if it is possible to check whether it is taken. */
export type HostResource =
  | { readonly kind: 'port'; readonly protocol: 'tcp' | 'udp'; readonly host: string; readonly port: number }
  | { readonly kind: 'socket' | 'pidfile' | 'memoryFile'; readonly path: string }
  | { readonly kind: 'tap'; readonly interface: string }
  | { readonly kind: 'vsock'; readonly cid: number };

export interface PortAddress {
  readonly protocol: 'tcp' | 'udp';
  /** Without brackets; empty: all addresses. */
  readonly host: string;
  readonly port: number;
  /** The lowest port that is valid there. */
  readonly lowest: number;
  /** How far below it a second port is bound. */
  readonly secondBelow?: number;
}

/** All that is bound. */
export function portsOf({ port, secondBelow }: Pick<PortAddress, 'port' | 'secondBelow'>): number[] {
  return secondBelow === undefined ? [port] : [port, port - secondBelow];
}

/**
 * How an option touches the host without taking anything that could be moved. `shared`: programs, folders or screens
 * that several VMs may use at once, outside of the process's network. `network`: a network on which others know the
 * VM by its MAC address. `enclosed`: the same, but limited to the process's own network. `single`: only one VM can
 * have it. `unknown`: vmckpt cannot tell.
 */
export type Touch = 'shared' | 'network' | 'enclosed' | 'single' | 'unknown';

/** Called for everything that an option takes from the host. Its return value replaces what was there. */
export interface HostVisitor {
  /** A unix socket that QEMU binds. */
  socket(path: string): string;
  /** A file that QEMU writes. */
  file(path: string): string;
  /** The file with QEMU's process id; QEMU removes it at its end. */
  pidfile(path: string): string;
  /** A port that QEMU binds. @param isDisplay it is written as a VNC display */
  port(address: PortAddress, isDisplay: boolean): number;
  vsockId(id: number): number;
  /** A resource that can be taken, and is never moved. */
  takes(resource: HostResource): void;
  touches(touch: Touch): void;
}

/** The functions for rows of the table. */
export class HostVisit {
  readonly option: Option;
  readonly #visitor: HostVisitor;

  constructor(option: Option, visitor: HostVisitor) {
    this.option = option;
    this.#visitor = visitor;
  }

  get(key: string): string | undefined {
    return propertyOf(this.option, key);
  }

  get characterDevice(): ReturnType<typeof characterDeviceOf> {
    return characterDeviceOf(this.option);
  }

  touches(touch: Touch): Option {
    this.#visitor.touches(touch);
    return this.option;
  }

  takes(resource: HostResource): Option {
    this.#visitor.takes(resource);
    return this.option;
  }

  map(changes: Readonly<Record<string, (value: string) => string>>): Option {
    return this.mapAll(({ key, value }) => changes[key]?.(value) ?? value);
  }

  mapAll(change: (property: Property) => string): Option {
    return mapValues(this.option, change);
  }

  readonly file = (path: string): string => this.#visitor.file(path);
  readonly pidfile = (path: string): string => this.#visitor.pidfile(path);
  readonly socket = (path: string): string => this.#visitor.socket(path);
  readonly vsockId = (id: string): string => String(this.#visitor.vsockId(Number(id)));

  /** Port 0, and text that is not a number, is left to QEMU. */
  port(host: string, text: string, protocol: 'tcp' | 'udp' = 'tcp'): string {
    const port = Number(text);
    if (!isPort(port)) return text;
    return String(this.#visitor.port({ protocol, host: bare(host), port, lowest: 1 }, false));
  }

  /** `[host]:port` */
  endpoint(address: string, protocol: 'tcp' | 'udp' = 'tcp'): string {
    const colon = address.lastIndexOf(':');
    const host = address.slice(0, Math.max(0, colon));
    return `${address.slice(0, colon + 1)}${this.port(host, address.slice(colon + 1), protocol)}`;
  }

  /** `host:display`: a port above 5900. @param hasWebsocket a second one above 5700 */
  display(listen: string, { hasWebsocket }: { readonly hasWebsocket: boolean }): string {
    const [, host = '', display] = /^(.*):(\d+)$/.exec(listen) ?? [];
    const port = VNC_BASE_PORT + Number(display);
    if (display === undefined || !isPort(port)) return listen;
    const second = hasWebsocket ? { secondBelow: VNC_BASE_PORT - VNC_WEBSOCKET_PORT } : {};
    const address = { protocol: 'tcp', host: bare(host), port, lowest: VNC_BASE_PORT, ...second } as const;
    return `${host}:${this.#visitor.port(address, true) - VNC_BASE_PORT}`;
  }
}

export const VNC_BASE_PORT = 5900;
export const VNC_WEBSOCKET_PORT = 5700;

function isPort(port: number): boolean {
  return Number.isInteger(port) && port > 0 && port <= 0xffff;
}

function bare(host: string): string {
  return host.replace(/^\[|\]$/g, '');
}
