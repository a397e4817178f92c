/** QEMU's own networks, and tap interfaces that were set up by others. */
import { propertyOf } from '../command-line.js';
import { keys, matching, oneOf, properties, word, type Check } from './grammar.js';

const CARD = keys('type id name model mac macaddr addr vectors netdev');

const USER = properties({
  keys: new Map([
    ...CARD,
    ...keys(
      'ipv4 ipv6 host ipv6-host ipv6-prefixlen ipv6-dns restrict hostname dhcpstart dns dnssearch domainname',
    ),
    ...keys('net ipv6-net ipv6-prefix', matching(/^[\w.:]+(\/[\w.]+)?$/)),
    // The guest's own ports, at any address.
    ...keys('hostfwd', matching(/^(tcp|udp)?:([\w.-]*|\[[\w.:]+\]):\d+-[\w.-]*:\d+$/)),
  ]),
  lists: 'hostfwd dnssearch',
});

/** Without script=no QEMU runs /etc/qemu-ifup. */
const TAP = properties({
  keys: new Map([
    ...CARD,
    ...keys('ifname vnet_hdr vhost vhostforce sndbuf queues poll-us'),
    ...keys('script downscript', (value) => (value === 'no' ? undefined : 'runs a script')),
  ]),
  further: (get) =>
    get('script') === 'no' && get('downscript') === 'no'
      ? undefined
      : 'runs a script (without script=no,downscript=no)',
});

const PLAIN = properties({ keys: new Map([...CARD, ...keys('hubid')]) });

const TYPES: ReadonlyMap<string, Check> = new Map([
  ['user', USER],
  ['tap', TAP],
  ...['none', 'nic', 'hubport'].map((type): [string, Check] => [type, PLAIN]),
]);

export const network: Check = (option, where) => {
  const type = propertyOf(option, 'type') ?? '';
  const check = TYPES.get(type);
  return check === undefined
    ? `${type} networking reaches other programs or runs a helper`
    : check(option, where);
};

export const sound = properties({
  keys: new Map([
    ...keys('driver', oneOf('none spice')),
    ...keys('id model timer-period', word),
    ...['in', 'out'].flatMap((side) =>
      keys(
        ['mixing-engine', 'fixed-settings', 'frequency', 'channels', 'format', 'voices', 'buffer-length']
          .map((key) => `${side}.${key}`)
          .join(' '),
      ),
    ),
  ]),
});
