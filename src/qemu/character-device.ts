/**
 * Where a command line connects consoles and monitors: `-chardev BACKEND,…` and the older one-word notation of
 * `-serial`, `-monitor`, `-qmp`, … (`unix:PATH,server,nowait`, `mon:stdio`), as one shape.
 */
import {
  isOn,
  mapValues,
  type Option,
  parseProperties,
  propertiesOf,
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
  /** Sockets: QEMU does nothing until somebody has connected. */
  readonly waits: boolean;
  /** Shared with a monitor: `mon:`. */
  readonly withMonitor: boolean;
  readonly properties: readonly Property[];
}

const NETWORK_PREFIXES: ReadonlySet<string> = new Set(['tcp', 'telnet', 'tn3270', 'websocket', 'ws', 'wss']);

/** @returns undefined when the option is no character device, or refers to a `-chardev` (`chardev:ID`). */
export function characterDeviceOf(option: Option): CharacterDevice | undefined {
  if (option.name === 'chardev') return fromChardev(option);
  if (!(CHARACTER_DEVICE_OPTIONS as readonly string[]).includes(option.name)) return undefined;
  return fromOlderNotation(option.value ?? '');
}

/** What of a character device may lie elsewhere. */
export interface Redirection {
  readonly path?: string;
  readonly port?: string;
  readonly localport?: string;
  readonly logfile?: string;
}

/** The option with its socket or file, and its log, in another place. `to` names only what the option has. */
export function redirect(option: Option, to: Redirection): Option {
  if (option.name === 'chardev')
    return mapValues(option, ({ key, value }) => (to as Record<string, string | undefined>)[key] ?? value);
  const [, mon = '', head = '', tail = ''] = /^(mon:)?((?:[^,]|,,)*)(.*)$/s.exec(option.value!)!;
  const prefix = head.slice(0, head.indexOf(':'));
  const withPath = to.path === undefined ? head : `${prefix}:${to.path.replaceAll(',', ',,')}`;
  const port = to.port ?? to.localport;
  const target = port === undefined ? withPath : `${head.slice(0, head.lastIndexOf(':'))}:${port}`;
  const log = to.logfile?.replaceAll(',', ',,');
  const settings = log === undefined ? tail : tail.replace(/(,logfile=)(?:[^,]|,,)*/, (_, key) => key + log);
  return { name: option.name, value: `${mon}${target}${settings}` };
}

function fromChardev(option: Option): CharacterDevice {
  const properties = propertiesOf(option);
  const get = (key: string): string | undefined =>
    properties.findLast((property) => property.key === key)?.value;
  return {
    backend: get('backend') ?? '',
    id: get('id'),
    path: get('path'),
    host: get('host'),
    port: get('port'),
    localHost: get('localaddr'),
    localPort: get('localport'),
    withMonitor: false,
    properties,
    ...listening(properties),
  };
}

function fromOlderNotation(text: string): CharacterDevice | undefined {
  const withMonitor = text.startsWith('mon:');
  const rest = withMonitor ? text.slice(4) : text;
  if (rest.startsWith('chardev:')) return undefined;
  const [first = '', ...others] = splitHead(rest);
  const properties = parseProperties(others.join(','));
  const colon = first.indexOf(':');
  const prefix = colon === -1 ? first : first.slice(0, colon);
  const target = colon === -1 ? '' : first.slice(colon + 1);
  const base = { withMonitor, properties, ...listening(properties) };
  if (prefix === 'unix') return { backend: 'socket', path: target, ...base };
  if (NETWORK_PREFIXES.has(prefix)) {
    const at = target.lastIndexOf(':');
    return { backend: 'socket', host: target.slice(0, at), port: target.slice(at + 1), ...base };
  }
  if (prefix === 'udp') return { backend: 'udp', ...datagramEnds(target), ...base };
  if (prefix === 'file' || prefix === 'pipe') return { backend: prefix, path: target, ...base };
  if (first.startsWith('/dev/')) return { backend: 'serial', path: first, ...base };
  return { backend: prefix, ...base };
}

/** `[remote_host]:remote_port[@[src_ip]:src_port]` */
function datagramEnds(target: string): Partial<CharacterDevice> {
  const [remote = '', local] = target.split('@');
  const at = remote.lastIndexOf(':');
  const ends = { host: remote.slice(0, at), port: remote.slice(at + 1) };
  if (local === undefined) return ends;
  const colon = local.lastIndexOf(':');
  return { ...ends, localHost: local.slice(0, colon), localPort: local.slice(colon + 1) };
}

/** Cuts at the first single comma; the tail stays as it is. */
function splitHead(text: string): string[] {
  const match = /^((?:[^,]|,,)*)(?:,(.*))?$/s.exec(text);
  const head = (match?.[1] ?? text).replaceAll(',,', ',');
  return match?.[2] === undefined ? [head] : [head, match[2]];
}

function listening(properties: readonly Property[]): { server: boolean; waits: boolean } {
  const last = (on: string, off: string): boolean | undefined => {
    const found = properties.findLast(({ key }) => key === on || key === off);
    return found === undefined ? undefined : found.key === on && isOn(found.value);
  };
  const server = last('server', 'noserver') ?? false;
  return { server, waits: server && (last('wait', 'nowait') ?? true) };
}
