/** The current port forwards of user-mode networks: hostfwd_add and hostfwd_remove change them. */
import { propertiesOf, propertyOf, withProperties, type Option } from '../command-line.js';

interface Forward {
  readonly protocol: string;
  /** `*`: all addresses. Undefined: a name, which may stand for any address. */
  readonly host: string | undefined;
  /** Undefined: any free port. */
  readonly port: number | undefined;
  /** Undefined: the address that the guest gets. */
  readonly guest: string | undefined;
  readonly guestPort: number;
}

interface Network {
  /** `#net017` or similar if the command line gives none. */
  readonly id: string;
  readonly forwards: readonly Forward[];
}

/** The command line with the forwards that `info usernet` shows. Networks without an id are matched by their order. */
export function withForwards(options: readonly Option[], usernet: string): Option[] {
  const shown = networksIn(usernet);
  const unnamedNow = shown.filter(({ id }) => id.startsWith('#'));
  const unnamed = options.filter((option) => isUserNetwork(option) && propertyOf(option, 'id') === undefined);
  return options.map((option) => {
    if (!isUserNetwork(option)) return option;
    const id = propertyOf(option, 'id');
    const now =
      id === undefined ? unnamedNow[unnamed.indexOf(option)] : shown.find((network) => network.id === id);
    // A network that was removed is reported elsewhere.
    return now === undefined ? option : withForwardsOf(option, now);
  });
}

function isUserNetwork(option: Option): boolean {
  return ['netdev', 'nic', 'net'].includes(option.name) && propertyOf(option, 'type') === 'user';
}

/** `TCP[HOST_FORWARD]  16       127.0.0.1 15999       10.0.2.15    22     0     0` below `Hub -1 (n0):` */
function networksIn(usernet: string): Network[] {
  return usernet.split(/^(?=Hub )/m).flatMap((part) => {
    const id = /^Hub -?\d+ \((.*)\):/.exec(part)?.[1];
    if (id === undefined) return [];
    const rows = part.matchAll(/^ *(TCP|UDP)\[HOST_FORWARD\] +\d+ +(\S+) +(\d+) +(\S+) +(\d+)/gm);
    const forwards = Array.from(rows, ([, protocol, host, port, guest, guestPort]) => ({
      protocol: protocol!.toLowerCase(),
      host: host!,
      port: Number(port),
      guest: guest!,
      guestPort: Number(guestPort),
    }));
    return [{ id, forwards }];
  });
}

function withForwardsOf(option: Option, { forwards }: Network): Option {
  const left = [...forwards];
  const given = propertiesOf(option).filter(({ key }) => /^hostfwd(\.|$)/.test(key));
  const kept = given.filter(({ value }) => {
    const forward = parseForward(value);
    // A forward that is not understood stays.
    if (forward === undefined) return true;
    const at = left.findIndex((now) => isSame(forward, now));
    if (at !== -1) left.splice(at, 1);
    return at !== -1;
  });
  if (kept.length === given.length && left.length === 0) return option;
  return withTexts(option, [...kept.map(({ value }) => value), ...left.map(formatForward)]);
}

/** In JSON, forwards are a list of objects. */
function withTexts(option: Option, texts: readonly string[]): Option {
  const { name, value = '' } = option;
  if (value.startsWith('{')) {
    const members = JSON.parse(value) as object;
    return { name, value: JSON.stringify({ ...members, hostfwd: texts.map((str) => ({ str })) }) };
  }
  const bare = withProperties(option, { hostfwd: undefined });
  return {
    name,
    value: [bare.value, ...texts.map((text) => `hostfwd=${text.replaceAll(',', ',,')}`)].join(','),
  };
}

/** `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport` */
function parseForward(text: string): Forward | undefined {
  const match = /^(tcp|udp)?:([^:]*):(\d+)-([^:]*):(\d+)$/.exec(text);
  if (match === null) return undefined;
  const [, protocol = 'tcp', host = '', port, guest, guestPort] = match;
  const isAny = host === '' || host === '0.0.0.0';
  return {
    protocol,
    host: isAny ? '*' : /^[\d.]+$/.test(host) ? host : undefined,
    port: Number(port) || undefined,
    guest: guest || undefined,
    guestPort: Number(guestPort),
  };
}

function isSame(given: Forward, now: Forward): boolean {
  return (
    given.protocol === now.protocol &&
    given.guestPort === now.guestPort &&
    (['host', 'port', 'guest'] as const).every((key) => given[key] === undefined || given[key] === now[key])
  );
}

function formatForward({ protocol, host = '', port = 0, guest = '', guestPort }: Forward): string {
  return `${protocol}:${host === '*' ? '' : host}:${port}-${guest}:${guestPort}`;
}
