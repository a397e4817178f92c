/**
 * Where a command line connects consoles and monitors: `-chardev BACKEND,…` and the older one-word notation of
 * `-serial`, `-monitor`, `-qmp`, … (`unix:PATH,server,nowait`, `mon:stdio`), as one shape.
 */
import {
  formatProperties,
  isOn,
  mapValues,
  parseProperties,
  propertiesOf,
  valueIn,
  type Option,
  type Property,
} from './command-line.js';

/** Options whose value is a character device in the older notation. */
export const CHARACTER_DEVICE_OPTIONS = [
  'serial',
  'parallel',
  'monitor',
  'qmp',
  'qmp-pretty',
  'debugcon',
  'gdb',
] as const;

export interface CharacterDevice {
  /** `socket`, `stdio`, `pty`, `file`, … */
  readonly backend: string;
  /** The id of a `-chardev`. */
  readonly id?: string | undefined;
  /** A unix socket, file or device. */
  readonly path?: string | undefined;
  readonly host?: string | undefined;
  readonly port?: string | undefined;
  /** UDP: where datagrams arrive; without a port the kernel chooses one. */
  readonly localHost?: string | undefined;
  readonly localPort?: string | undefined;
  /** Sockets: QEMU listens instead of connecting. */
  readonly server: boolean;
  /** Sockets: QEMU does nothing until a client has connected. */
  readonly waits: boolean;
  /** Shared with a monitor: `mon:`. */
  readonly withMonitor: boolean;
  readonly properties: readonly Property[];
}

const NETWORK_PREFIXES: ReadonlySet<string> = new Set(['tcp', 'telnet', 'tn3270', 'websocket', 'ws', 'wss']);

/** @returns undefined when the option is not a character device, or refers to a `-chardev` (`chardev:ID`) */
export function characterDeviceOf(option: Option): CharacterDevice | undefined {
  if (option.name === 'chardev') return fromProperties(propertiesOf(option), false);
  if (!(CHARACTER_DEVICE_OPTIONS as readonly string[]).includes(option.name)) return undefined;
  const { mon, properties } = olderNotation(option.value ?? '');
  const device = fromProperties(properties, mon !== '');
  return device.backend === 'chardev' ? undefined : device;
}

/** New places for the parts of a character device. */
export interface Redirection {
  readonly path?: string;
  readonly port?: string;
  readonly localport?: string;
  readonly logfile?: string;
}

/** The option with its socket, file or log in another place. `to` names only parts that the option has. */
export function redirect(option: Option, to: Redirection): Option {
  const places: Readonly<Record<string, string | undefined>> = { ...to };
  const before = characterDeviceOf(option)!.properties;
  // A value that a later setting overrides stays.
  const moved = ({ key, value }: Property) =>
    (value === valueIn(before, key) ? places[key] : undefined) ?? value;
  if (option.name === 'chardev') return mapValues(option, moved);
  const after = before.map((property) => ({ key: property.key, value: moved(property) }));
  if (after.every(({ value }, index) => value === before[index]!.value)) return option;
  const { mon, write } = olderNotation(option.value!);
  return { name: option.name, value: mon + write(after) };
}

/** Later settings override the first word: `unix:A,path=B` is the socket B. */
function fromProperties(properties: readonly Property[], withMonitor: boolean): CharacterDevice {
  const get = (key: string) => valueIn(properties, key);
  const server = isOn(get('server'));
  return {
    backend: get('backend') ?? '',
    id: get('id'),
    path: get('path'),
    host: get('host'),
    port: get('port'),
    localHost: get('localaddr'),
    localPort: get('localport'),
    server,
    waits: server && isOn(get('wait') ?? 'on'),
    withMonitor,
    properties,
  };
}

interface OlderNotation {
  readonly mon: string;
  /** The properties of the first word come first. */
  readonly properties: readonly Property[];
  /** Writes the same properties with other values. */
  readonly write: (properties: readonly Property[]) => string;
}

/** Parsed as QEMU does it. In `file:` and `pipe:` a comma belongs to the name, and `udp:` has no settings. */
function olderNotation(text: string): OlderNotation {
  const [, mon = '', word = ''] = /^(mon:)?(.*)$/s.exec(text)!;
  const [, prefix = '', rest = ''] = /^([^:,]*):?(.*)$/s.exec(word)!;
  const named = (backend: string, path: string, before: string): OlderNotation => ({
    mon,
    properties: [property('backend', backend), property('path', path)],
    write: ([, { value } = property('path', '')]) => before + value,
  });
  if (prefix === 'unix')
    return {
      mon,
      properties: [property('backend', 'socket'), ...parseProperties(rest, 'path')],
      write: ([, ...settings]) => `unix:${formatProperties(settings, 'path')}`,
    };
  if (NETWORK_PREFIXES.has(prefix)) return { mon, ...networkNotation(prefix, rest) };
  if (prefix === 'udp') return { mon, ...datagramNotation(rest) };
  if (prefix === 'file' || prefix === 'pipe') return named(prefix, rest, `${prefix}:`);
  if (word.startsWith('/dev/')) return named('serial', word, '');
  return { mon, properties: [property('backend', prefix)], write: () => word };
}

/** `host:port[,settings]` */
function networkNotation(prefix: string, text: string): Omit<OlderNotation, 'mon'> {
  const [, target = '', settings = ''] = /^([^,]*),?(.*)$/s.exec(text)!;
  const [host, port] = hostAndPort(target);
  return {
    properties: [
      property('backend', 'socket'),
      property('host', host),
      property('port', port),
      ...parseProperties(settings),
    ],
    write: ([, to, toPort, ...others]) =>
      [`${prefix}:${to!.value}:${toPort!.value}`, ...others.map((other) => formatProperties([other]))].join(
        ',',
      ),
  };
}

/** `[remote_host]:remote_port[@[src_ip]:src_port]` */
function datagramNotation(text: string): Omit<OlderNotation, 'mon'> {
  const [, remote = '', local, tail = ''] = /^([^@,]*)(?:@([^,]*))?(.*)$/s.exec(text)!;
  const [host, port] = hostAndPort(remote);
  const [localHost, localPort] = local === undefined ? [] : hostAndPort(local);
  const own =
    localPort === undefined ? [] : [property('localaddr', localHost!), property('localport', localPort)];
  return {
    properties: [property('backend', 'udp'), property('host', host), property('port', port), ...own],
    write: ([, to, toPort, from, fromPort]) =>
      `udp:${to!.value}:${toPort!.value}${from === undefined ? '' : `@${from.value}:${fromPort!.value}`}${tail}`,
  };
}

function hostAndPort(text: string): [string, string] {
  const colon = text.lastIndexOf(':');
  return [text.slice(0, Math.max(0, colon)), text.slice(colon + 1)];
}

function property(key: string, value: string): Property {
  return { key, value };
}
