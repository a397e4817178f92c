/**
 * What a command line touches on the host, in one table. Collisions, the places of a clone, refusals of clones and
 * trials, and shared networks are all derived from it. It is an allow-list: an option, back-end, device, object or
 * driver without a row is `unknown`, and a VM next to the original is refused because of it, by name. Source:
 * qemu-system(1) and the QAPI reference, versions 7.2 to 10.
 *
 *                     in place of the original   clone (beside it)         trial (in a network of its own)
 *   port              stays                      another free port         stays
 *   socket, file      stays                      in the VM's own folder    in the VM's own folder
 *   vsock id          stays                      another free one          refused
 *   shared            stays                      stays                     refused
 *   network           stays                      cut off until an agent    refused
 *                                                has changed the MAC
 *   enclosed          stays                      as network                stays
 *   single, unknown   stays                      refused                   refused
 */
import path from 'node:path';
import { CHARACTER_DEVICE_OPTIONS, redirect, type Redirection } from './character-device.js';
import { isOn, parseCommandLine, propertiesOf, type Option } from './command-line.js';
import { REACHING_PROPERTY } from './emulated-devices.js';
import { isKnownBlockDriver, touchOfDevice } from './host-devices.js';
import { HostVisit, portsOf, type HostResource, type HostVisitor, type Touch } from './host-visit.js';

type Row = (visit: HostVisit) => Option;

const nothing: Row = ({ option }) => option;
const touching =
  (touch: Touch): Row =>
  (visit) =>
    visit.touches(touch);
const [shared, network, single, unknown] = (['shared', 'network', 'single', 'unknown'] as const).map(
  touching,
) as [Row, Row, Row, Row];

/** @returns the option with what `visitor` put in the place of what it takes */
export function visitHost(option: Option, visitor: HostVisitor): Option {
  return rowOf(OPTIONS, option.name)(new HostVisit(option, visitor));
}

function rowOf(table: Readonly<Record<string, Row>>, key: string): Row {
  return (Object.hasOwn(table, key) ? table[key] : undefined) ?? unknown;
}

function rows(names: string, row: Row): Record<string, Row> {
  return Object.fromEntries(names.split(/\s+/).map((name) => [name, row]));
}

const CHARACTER_DEVICES: Readonly<Record<string, Row>> = {
  ...rows('none null ringbuf memory vc stdio pty mux hub msmouse wctablet testdev', nothing),
  ...rows('spicevmc spiceport dbus qemu-vdagent', nothing),
  ...rows('pipe serial tty parallel parport braille', single),
  socket: socketDevice,
  udp: (visit) => {
    const { localHost = '', localPort } = visit.characterDevice!;
    return localPort === undefined
      ? visit.option
      : redirected(visit, { localport: visit.port(localHost, localPort, 'udp') });
  },
  file: (visit) => redirected(visit, { path: visit.file(visit.characterDevice!.path ?? '') }),
};

function characterDevice(visit: HostVisit): Option {
  const device = visit.characterDevice;
  // It refers to an option that has a row of its own.
  if (device === undefined) return visit.option;
  const option = rowOf(CHARACTER_DEVICES, device.backend)(visit);
  const logfile = device.properties.findLast(({ key }) => key === 'logfile')?.value;
  return logfile === undefined ? option : redirect(option, { logfile: visit.file(logfile) });
}

function socketDevice(visit: HostVisit): Option {
  const device = visit.characterDevice!;
  // The debugger's socket always listens.
  const listens = device.server || visit.option.name === 'gdb';
  // A TCP client stays within the process's network.
  if (!listens) return device.path === undefined ? visit.option : visit.touches('shared');
  if (device.path !== undefined) return redirected(visit, { path: visit.socket(device.path) });
  return device.port === undefined
    ? visit.touches('unknown')
    : redirected(visit, { port: visit.port(device.host ?? '', device.port) });
}

function redirected({ option }: HostVisit, to: Redirection): Option {
  return redirect(option, to);
}

const NETWORKS: Readonly<Record<string, Row>> = {
  ...rows('none nic hubport', nothing),
  user: userNetwork,
  tap: (visit) => {
    const name = visit.get('ifname');
    // With a pattern, the kernel chooses a free name.
    if (name !== undefined && !name.includes('%')) visit.takes({ kind: 'tap', interface: name });
    return visit.touches('network');
  },
  bridge: network,
  // Only one VM can have a port of the switch.
  vde: (visit) => visit.touches(visit.get('port') === undefined ? 'network' : 'single'),
  socket: (visit) => {
    visit.touches('enclosed');
    return visit.map({
      listen: (address) => visit.endpoint(address),
      // With mcast= it is an interface; with udp= it is the address where datagrams arrive.
      localaddr: (address) => (visit.get('udp') === undefined ? address : visit.endpoint(address, 'udp')),
    });
  },
  stream: (visit) => socketNetwork(visit, 'addr', 'tcp', isOn(visit.get('server'))),
  dgram: (visit) => socketNetwork(visit, 'local', 'udp', !isMulticast(visit.get('remote.host') ?? '')),
  ...rows('l2tpv3 vhost-user vhost-vdpa af-xdp netmap passt', single),
};
const NETWORK_KEYS: Readonly<Record<string, RegExp>> = {
  user: /^(hostname|restrict|ipv[46]|net|host|tftp|tftp-server-name|bootfile|dhcpstart|dns|dnssearch|domainname|ipv6-(prefix|prefixlen|host|dns|net)|smb|smbserver|(ipv6-)?hostfwd|guestfwd)(\.|$)/,
  tap: /^(ifname|script|downscript|br|helper|sndbuf|vnet_hdr|vhost|vhostforce|queues|poll-us)$/,
  bridge: /^(br|helper)$/,
  vde: /^(sock|port|group|mode)$/,
  socket: /^(listen|connect|mcast|localaddr|udp)$/,
  stream: /^(server|addr\.(type|path|host|port|ipv4|ipv6|abstract|tight|numeric|to)|reconnect(-ms)?)$/,
  dgram: /^(local|remote)\.(type|path|host|port|ipv4|ipv6|abstract|tight|numeric|to)$/,
};
const ANY_NETWORK_KEY = /^(type|id|netdev|name|model|macaddr|mac|addr|vectors|hubid)$/;

function anyNetwork(visit: HostVisit): Option {
  const type = visit.get('type') ?? 'user';
  const isKnown = (key: string) => ANY_NETWORK_KEY.test(key) || NETWORK_KEYS[type]?.test(key);
  const isPlain = ['none', 'nic', 'hubport'].includes(type);
  if (!isPlain && !propertiesOf(visit.option).every(({ key }) => isKnown(key))) visit.touches('unknown');
  return rowOf(NETWORKS, type)(visit);
}

function userNetwork(visit: HostVisit): Option {
  // Shares a folder of the host, and connects the guest with programs.
  if (visit.get('smb') !== undefined || visit.get('guestfwd') !== undefined) visit.touches('shared');
  return visit.mapAll(({ key, value }) =>
    /^(ipv6-)?hostfwd(\.|$)/.test(key)
      ? value.replace(
          // [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport, an IPv6 address in brackets.
          /^((tcp|udp)?:(\[[^\]]*\]|[^:]*):)(\d+)(?=-)/,
          (_, before: string, protocol: string | undefined, address: string, port: string) =>
            before + visit.port(address, port, protocol === 'udp' ? 'udp' : 'tcp'),
        )
      : value,
  );
}

/** @param end the properties of QEMU's own end, if it `binds` it */
function socketNetwork(visit: HostVisit, end: string, protocol: 'tcp' | 'udp', binds: boolean): Option {
  const type = visit.get(`${end}.type`);
  const known = type === undefined || type === 'inet' || type === 'unix';
  visit.touches(!known ? 'single' : type === 'unix' ? 'network' : 'enclosed');
  if (!binds) return visit.option;
  const host = visit.get(`${end}.host`) ?? '';
  return visit.map({
    [`${end}.path`]: visit.socket,
    [`${end}.port`]: (port) => visit.port(host, port, protocol),
  });
}

function isMulticast(host: string): boolean {
  return /^(22[4-9]|23\d)\.|^\[?ff/i.test(host);
}

/** With `to` QEMU looks for a free display itself; with `reverse` it connects to a viewer. */
function vnc(visit: HostVisit): Option {
  if (visit.get('to') !== undefined) return visit.option;
  if (isOn(visit.get('reverse'))) return visit.touches('shared');
  const hasWebsocket = visit.get('websocket') === 'on';
  const listen = (value: string) =>
    value.startsWith('unix:')
      ? `unix:${visit.socket(value.slice('unix:'.length))}`
      : visit.display(value, { hasWebsocket });
  // Without an address of its own it listens at the display's.
  const host = /^(.*):\d+$/.exec(visit.get('vnc') ?? '')?.[1] ?? '';
  return visit.map({
    vnc: listen,
    websocket: (at) => (at.includes(':') ? visit.endpoint(at) : visit.port(host, at)),
  });
}

const DISPLAYS: Readonly<Record<string, Row>> = {
  ...rows('none gtk sdl curses egl-headless default', nothing),
  'spice-app': shared,
  dbus: (visit) => (isOn(visit.get('p2p')) ? visit.option : visit.touches('single')),
  vnc,
};

function spice(visit: HostVisit): Option {
  if (isOn(visit.get('unix'))) return visit.map({ addr: visit.socket });
  const host = visit.get('addr') ?? '';
  const port = (text: string) => visit.port(host, text);
  return visit.map({ port, 'tls-port': port });
}

const SOUNDS: Readonly<Record<string, Row>> = {
  ...rows('none spice', nothing),
  ...rows('alsa coreaudio dbus dsound jack oss pa pipewire sdl sndio', shared),
  // Without a path it is always the same file.
  wav: (visit) =>
    visit.get('path') === undefined ? visit.touches('single') : visit.map({ path: visit.file }),
};

const OBJECTS: Readonly<Record<string, Row>> = {
  ...rows('memory-backend-ram memory-backend-memfd memory-backend-epc memory-backend-shm', nothing),
  ...rows('iothread main-loop thread-context throttle-group rng-builtin rng-random rng-egd can-bus', nothing),
  ...rows('secret secret_keyring tls-creds-anon tls-creds-psk tls-creds-x509 tls-cipher-suites', nothing),
  ...rows('authz-list authz-list-file authz-pam authz-simple', nothing),
  ...rows('cryptodev-backend cryptodev-backend-builtin acpi-generic-initiator acpi-generic-port', nothing),
  ...rows(
    'filter-buffer filter-mirror filter-redirector filter-rewriter filter-replay colo-compare',
    nothing,
  ),
  'filter-dump': (visit) => visit.map({ file: visit.file }),
  // The guest writes its memory into a file.
  'memory-backend-file': (visit) => {
    const file = visit.get('mem-path');
    if (file === undefined || !isOn(visit.get('share'))) return visit.option;
    visit.takes({ kind: 'memoryFile', path: file });
    return visit.touches('single');
  },
};

function device(visit: HostVisit): Option {
  const driver = visit.get('driver') ?? '';
  if (/^vhost-vsock(-|$)/.test(driver)) {
    visit.touches('shared');
    return visit.map({ 'guest-cid': visit.vsockId });
  }
  const touch = touchOfDevice(visit.option, driver);
  return touch === undefined ? visit.option : visit.touches(touch);
}

/** `driver.property=value`, or the same in three properties. */
function globalProperty(visit: HostVisit): Option {
  const [first] = propertiesOf(visit.option);
  const property = visit.get('property') ?? first?.key.slice(first.key.lastIndexOf('.') + 1) ?? '';
  const reaches = REACHING_PROPERTY.test(property) || property === 'guest-cid';
  return reaches ? visit.touches('unknown') : visit.option;
}

/** own-disks.ts handles what a VM writes to its disks. */
function disk(visit: HostVisit): Option {
  return isKnownBlockDriver(visit.option) ? visit.option : visit.touches('unknown');
}

function folder(visit: HostVisit): Option {
  const driver = visit.get('fsdriver');
  if (driver !== 'local' && driver !== 'synth') return visit.touches('single');
  return driver === 'synth' || isOn(visit.get('readonly')) ? visit.option : visit.touches('shared');
}

/** -s is short for -gdb tcp::1234. */
function debuggerPort(visit: HostVisit): Option {
  const port = visit.port('', String(GDB_PORT));
  return port === String(GDB_PORT) ? visit.option : { name: 'gdb', value: `tcp::${port}` };
}
const GDB_PORT = 1234;

function wholeFile({ option, file }: HostVisit): Option {
  return { name: option.name, value: file(option.value ?? '') };
}

const OPTIONS: Readonly<Record<string, Row>> = {
  ...rows(
    `h help version snapshot usb nographic portrait full-screen win2k-hack no-fd-bootchk no-acpi no-hpet mem-prealloc
    audio-help singlestep one-insn-per-tb preconfig S enable-kvm no-kvm no-reboot no-shutdown daemonize only-migratable
    nodefaults semihosting semihosting-config old-param no-user-config nodefconfig async-teardown enable-sync-profile
    no-frame alt-grab ctrl-grab no-quit sdl curses enable-fips perfmap jitdump cpu accel smp numa boot m mem-path k
    soundhw name uuid rotate vga g acpitable smbios bios kernel append initrd dtb shim compat fw_cfg mon overcommit
    d dfilter seed L action loadvm incoming option-rom rtc watchdog watchdog-action echr chroot runas run-with prom-env
    sandbox msg balloon realtime tb-size iscsi`,
    nothing,
  ),
  ...rows('hda hdb hdc hdd fda fdb cdrom sd mtdblock pflash drive blockdev', disk),
  ...rows(['chardev', ...CHARACTER_DEVICE_OPTIONS].join(' '), characterDevice),
  ...rows('netdev nic net', anyNetwork),
  ...rows('audiodev audio', (visit) => rowOf(SOUNDS, visit.get('driver') ?? '')(visit)),
  ...rows('fsdev virtfs', folder),
  ...rows('add-fd readconfig tpmdev plugin', single),
  ...rows('D writeconfig dump-vmstate', wholeFile),
  ...rows('machine M', (visit) => visit.map({ dumpdtb: visit.file })),
  device,
  global: globalProperty,
  object: (visit) => rowOf(OBJECTS, visit.get('qom-type') ?? '')(visit),
  s: debuggerPort,
  vnc,
  display: (visit) =>
    visit.get('vnc') === undefined ? rowOf(DISPLAYS, visit.get('type') ?? '')(visit) : vnc(visit),
  spice,
  usbdevice: (visit) =>
    /^(tablet|mouse|keyboard|wacom-tablet)$/.test(visit.option.value ?? '')
      ? visit.option
      : visit.touches('single'),
  trace: (visit) => visit.map({ file: visit.file }),
  icount: (visit) => (visit.get('rrfile') === undefined ? visit.option : visit.touches('single')),
  pidfile: ({ option, pidfile }) => ({ ...option, value: pidfile(option.value ?? '') }),
};

/** A resource and the option that claims it. */
export interface Claim {
  readonly option: string;
  readonly resource: HostResource;
}

/**
 * Resources that can be checked for being taken. @param cwd the folder from which relative paths in `args` are
 * resolved
 */
export function collisionCandidates(args: readonly string[], cwd: string): Claim[] {
  return parseCommandLine(args).flatMap((option) => {
    const claims: Claim[] = [];
    const take = (resource: HostResource) => {
      const absolute =
        'path' in resource ? { ...resource, path: path.resolve(cwd, resource.path) } : resource;
      claims.push({ option: `-${option.name} ${option.value ?? ''}`, resource: absolute });
    };
    visitHost(option, {
      ...STAYING,
      socket: (file) => (take({ kind: 'socket', path: file }), file),
      pidfile: (file) => (take({ kind: 'pidfile', path: file }), file),
      port: (address) => {
        const { protocol, host } = address;
        for (const port of portsOf(address)) take({ kind: 'port', protocol, host, port });
        return address.port;
      },
      vsockId: (cid) => (take({ kind: 'vsock', cid }), cid),
      takes: take,
    });
    return claims;
  });
}

/** All ways in which an option touches the host. */
export function touchesOf(option: Option): Touch[] {
  const found = new Set<Touch>();
  visitHost(option, { ...STAYING, touches: (touch) => found.add(touch) });
  return [...found];
}

/** Keeps everything in its place. */
export const STAYING: HostVisitor = {
  socket: (file) => file,
  file: (file) => file,
  pidfile: (file) => file,
  port: ({ port }) => port,
  vsockId: (id) => id,
  takes: () => undefined,
  touches: () => undefined,
};
