/**
 * Everything in a command line that QEMU takes for itself on the host (listening sockets, ports, ids, files that it
 * writes), in other places. The rest stays to the letter, so the guest sees the same machine.
 */
import { characterDeviceOf, redirect, type Redirection } from './character-device.js';
import { isOn, mapValues, propertyOf, type Option } from './command-line.js';

export interface PortAddress {
  readonly protocol: 'tcp' | 'udp';
  /** As QEMU has it; empty: all addresses. */
  readonly host: string;
  readonly port: number;
  /** The lowest port that can stand there. */
  readonly lowest: number;
}

/** Where things go: given where they are, returns where they shall be, which may be the same. */
export interface Places {
  readonly file: (path: string) => string;
  readonly port: (address: PortAddress) => number;
  readonly vsockId: (id: number) => number;
}

/** Something that is in another place than in the saved command line. */
export interface Moved {
  readonly what: 'socket' | 'file' | 'port' | 'display' | 'vsock id';
  /** Which option has it: `-netdev`. */
  readonly option: string;
  readonly from: string;
  readonly to: string;
}

const VNC_BASE_PORT = 5900;
const GDB_PORT = 1234;

export function relocate(
  options: readonly Option[],
  places: Places,
): { readonly options: Option[]; readonly moved: readonly Moved[] } {
  const moved: Moved[] = [];
  const relocated = options.map((option) => new Relocation(option, places, moved).run());
  return { options: relocated, moved };
}

/** Of one option. */
class Relocation {
  readonly #option: Option;
  readonly #places: Places;
  readonly #moved: Moved[];

  constructor(option: Option, places: Places, moved: Moved[]) {
    this.#option = option;
    this.#places = places;
    this.#moved = moved;
  }

  run(): Option {
    const { name } = this.#option;
    if (characterDeviceOf(this.#option) !== undefined) return this.#characterDevice();
    if (name === 's') return this.#debugger();
    if (name === 'D') return { name, value: this.#file(this.#option.value!) };
    if (name === 'vnc' || name === 'display') return this.#vnc();
    if (name === 'spice') return this.#spice();
    if (name === 'netdev' || name === 'nic' || name === 'net') return this.#network();
    if (name === 'device')
      return this.#map({ 'guest-cid': (id) => this.#note('vsock id', id, this.#vsockId(id)) });
    if (name === 'trace' || name === 'object' || name === 'audiodev') return this.#output();
    return this.#option;
  }

  #characterDevice(): Option {
    const device = characterDeviceOf(this.#option)!;
    const to: { -readonly [key in keyof Redirection]: string } = {};
    // The debugger's socket listens without being told to.
    const listens = device.backend === 'socket' && (device.server || this.#option.name === 'gdb');
    if (listens && device.path !== undefined) to.path = this.#file(device.path, 'socket');
    else if (listens && device.port !== undefined) to.port = this.#port(device.host ?? '', device.port);
    else if (device.backend === 'file') to.path = this.#file(device.path!);
    const logfile = device.properties.findLast(({ key }) => key === 'logfile')?.value;
    if (logfile !== undefined) to.logfile = this.#file(logfile);
    return redirect(this.#option, to);
  }

  /** -s is short for -gdb tcp::1234. */
  #debugger(): Option {
    const port = this.#port('', String(GDB_PORT));
    return port === String(GDB_PORT) ? this.#option : { name: 'gdb', value: `tcp::${port}` };
  }

  #network(): Option {
    const listens = isOn(propertyOf(this.#option, 'server'));
    const host = propertyOf(this.#option, 'addr.host') ?? '';
    const forward = (value: string) =>
      value.replace(
        // [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport, an IPv6 address in brackets.
        /^((tcp|udp)?:(\[[^\]]*\]|[^:]*):)(\d+)(?=-)/,
        (_, before: string, protocol: string | undefined, address: string, port: string) =>
          before + this.#port(address, port, protocol === 'udp' ? 'udp' : 'tcp'),
      );
    return mapValues(this.#option, ({ key, value }) => {
      if (/^(ipv6-)?hostfwd(\.|$)/.test(key)) return forward(value);
      if (key === 'listen') return this.#endOf(value);
      if (listens && key === 'addr.path') return this.#file(value, 'socket');
      if (listens && key === 'addr.port') return this.#port(host, value);
      return value;
    });
  }

  /** A display number is a port above 5900; with `to=` QEMU looks for a free one itself. */
  #vnc(): Option {
    if (propertyOf(this.#option, 'to') !== undefined) return this.#option;
    const listen = (value: string) => {
      if (value.startsWith('unix:')) return `unix:${this.#file(value.slice('unix:'.length), 'socket')}`;
      const [, host = '', display] = /^(.*):(\d+)$/.exec(value) ?? [];
      if (display === undefined) return value;
      const port = { port: VNC_BASE_PORT + Number(display), lowest: VNC_BASE_PORT };
      const to = this.#places.port({ protocol: 'tcp', host: bare(host), ...port }) - VNC_BASE_PORT;
      return this.#note('display', value, `${host}:${to}`);
    };
    return this.#map({
      vnc: listen,
      websocket: (port) => (/^\d+$/.test(port) ? this.#port('', port) : port),
    });
  }

  #spice(): Option {
    const host = propertyOf(this.#option, 'addr') ?? '';
    const ports = {
      port: (port: string) => this.#port(host, port),
      'tls-port': (port: string) => this.#port(host, port),
    };
    return isOn(propertyOf(this.#option, 'unix'))
      ? this.#map({ addr: (path) => this.#file(path, 'socket') })
      : this.#map(ports);
  }

  /** What is written beside the machine: traces, captured packets, sound. */
  #output(): Option {
    const { name } = this.#option;
    if (name === 'object' && propertyOf(this.#option, 'qom-type') !== 'filter-dump') return this.#option;
    const key = name === 'audiodev' ? 'path' : 'file';
    if (name === 'audiodev' && propertyOf(this.#option, 'driver') !== 'wav') return this.#option;
    return this.#map({ [key]: (path) => this.#file(path) });
  }

  #map(changes: Readonly<Record<string, (value: string) => string>>): Option {
    return mapValues(this.#option, ({ key, value }) => changes[key]?.(value) ?? value);
  }

  /** `[host]:port` */
  #endOf(address: string): string {
    const colon = address.lastIndexOf(':');
    return `${address.slice(0, colon + 1)}${this.#port(address.slice(0, Math.max(0, colon)), address.slice(colon + 1))}`;
  }

  #file(from: string, what: 'file' | 'socket' = 'file'): string {
    return this.#note(what, from, this.#places.file(from));
  }

  /** Port 0, and what is no number, is left to QEMU. */
  #port(host: string, text: string, protocol: 'tcp' | 'udp' = 'tcp'): string {
    const port = Number(text);
    if (!Number.isInteger(port) || port <= 0 || port > 0xffff) return text;
    const to = String(this.#places.port({ protocol, host: bare(host), port, lowest: 1 }));
    this.#note('port', `${host}:${text}`, `${host}:${to}`);
    return to;
  }

  #vsockId(id: string): string {
    return String(this.#places.vsockId(Number(id)));
  }

  #note(what: Moved['what'], from: string, to: string): string {
    if (from !== to) this.#moved.push({ what, option: `-${this.#option.name}`, from, to });
    return to;
  }
}

function bare(host: string): string {
  return host.replace(/^\[|\]$/g, '');
}
