/**
 * Which options of a command line from a checkpoint may run without the user's word. A checkpoint can be hostile,
 * and the command line in it was written by whoever made it.
 *
 * The principle: harmless is what only shapes the guest's own hardware, reads files as the guest's firmware, kernel
 * or read-only disk, connects it through user-mode networking, or opens consoles that only this host's user can
 * reach. Not harmless is what can run a program, write or create a file of the host (a writable disk too), hand a
 * host device or another program's socket to the guest, or open QEMU's monitor or memory to the network. It is an
 * allow-list: an option, device, back-end or property that is not known here is not trusted.
 */
import path from 'node:path';
import { characterDeviceOf, CHARACTER_DEVICE_OPTIONS } from './character-device.js';
import {
  isOn,
  type Option,
  parseCommandLine,
  propertiesOf,
  type Property,
  propertyOf,
} from './command-line.js';
import { EMULATED_DEVICES, REACHING_PROPERTY } from './emulated-devices.js';
import { RUN_ONLY_OPTIONS } from './restore-command-line.js';

export interface UntrustedOption {
  /** As it stands in the command line: `-device vfio-pci,host=…`. */
  readonly option: string;
  readonly reason: string;
}

/** Options that are harmless whatever their value. */
const HARMLESS: ReadonlySet<string> = new Set(
  `h help version snapshot usb nographic portrait full-screen rotate win2k-hack no-fd-bootchk no-acpi no-hpet nodefaults
  mem-prealloc singlestep one-insn-per-tb enable-kvm no-kvm no-reboot no-shutdown only-migratable no-user-config
  nodefconfig async-teardown enable-sync-profile no-frame alt-grab ctrl-grab no-quit sdl curses cpu accel smp numa boot m k
  name uuid vga g acpitable smbios bios kernel append initrd dtb compat fw_cfg mon overcommit seed L action option-rom rtc
  watchdog watchdog-action echr sandbox msg balloon realtime tb-size cdrom`.split(/\s+/),
);

/** Folders where QEMU may put a listening socket. */
const SOCKET_FOLDERS = ['/run', '/var/run', '/tmp', '/var/tmp', '/var/lib/libvirt/qemu'] as const;

/** @param socketFolders see socketFolders() */
type Check = (option: Option, socketFolders: readonly string[]) => string | undefined;

const CHECKS: Readonly<Record<string, Check>> = {
  machine: checkMachine,
  M: checkMachine,
  device: checkDevice,
  global: checkGlobal,
  object: checkObject,
  chardev: checkCharacterDevice,
  ...Object.fromEntries(CHARACTER_DEVICE_OPTIONS.map((name) => [name, checkCharacterDevice])),
  gdb: () => 'gives access to all of the guest through a debugger',
  netdev: checkNetwork,
  nic: checkNetwork,
  net: checkNetwork,
  drive: checkDrive,
  blockdev: checkBlockdev,
  display: checkDisplay,
  vnc: checkVnc,
  usbdevice: ({ value = '' }) =>
    /^(tablet|mouse|keyboard)$/.test(value) ? undefined : 'may hand over a device of the host',
  icount: (option) => (propertyOf(option, 'rrfile') === undefined ? undefined : 'writes a file of the host'),
  audiodev: checkAudio,
  audio: checkAudio,
};

/**
 * @param argv a command line from a checkpoint, without the program's name
 * @param ownFolder where QEMU may put any socket
 * @returns an entry for each option that needs --trust-command-line
 */
export function untrustedOptions(argv: readonly string[], ownFolder?: string): UntrustedOption[] {
  const options = parseCommandLine(argv);
  const folders = ownFolder === undefined ? socketFolders() : [ownFolder, ...socketFolders()];
  const discardsWrites = options.some(({ name }) => name === 'snapshot');
  return options.flatMap((option) => {
    const reason = reasonAgainst(option, { discardsWrites, folders });
    return reason === undefined ? [] : [{ option: `-${option.name} ${option.value ?? ''}`.trim(), reason }];
  });
}

interface Surroundings {
  readonly discardsWrites: boolean;
  readonly folders: readonly string[];
}

function reasonAgainst(option: Option, { discardsWrites, folders }: Surroundings): string | undefined {
  const { name, value = '' } = option;
  if (HARMLESS.has(name) || RUN_ONLY_OPTIONS.has(name)) return undefined;
  if (/^(hd[a-d]|fd[ab]|sd|mtdblock|pflash)$/.test(name)) {
    if (discardsWrites && name !== 'pflash') return checkImage(value);
    return `lets the guest write to ${value}`;
  }
  if (name === 'drive' && discardsWrites) return checkDrive({ name, value: `${value},snapshot=on` });
  const check = Object.hasOwn(CHECKS, name) ? CHECKS[name] : undefined;
  return check === undefined ? 'is not known to be harmless' : check(option, folders);
}

function checkMachine(option: Option): string | undefined {
  return propertyOf(option, 'dumpdtb') === undefined ? undefined : 'writes a file of the host';
}

function checkDevice(option: Option): string | undefined {
  const driver = propertyOf(option, 'driver') ?? '';
  if (!EMULATED_DEVICES.some((pattern) => pattern.test(driver)))
    return `${driver} is not known as a purely emulated device`;
  const reaching = propertiesOf(option).find(({ key }) => REACHING_PROPERTY.test(key));
  return reaching === undefined ? undefined : `its ${reaching.key} may reach into the host`;
}

function checkGlobal(option: Option): string | undefined {
  const [first] = propertiesOf(option);
  const property = propertyOf(option, 'property') ?? first?.key.slice(first.key.lastIndexOf('.') + 1) ?? '';
  return REACHING_PROPERTY.test(property) ? `${property} may reach into the host` : undefined;
}

const HARMLESS_OBJECTS: ReadonlySet<string> = new Set(
  'memory-backend-ram memory-backend-memfd iothread main-loop throttle-group rng-builtin'.split(' '),
);

function checkObject(option: Option): string | undefined {
  const type = propertyOf(option, 'qom-type') ?? '';
  if (HARMLESS_OBJECTS.has(type)) return undefined;
  const source = propertyOf(option, 'filename') ?? '/dev/urandom';
  if (type === 'rng-random' && /^\/dev\/(u?random|hwrng)$/.test(source)) return undefined;
  if (type === 'secret' && propertyOf(option, 'file') === undefined) return undefined;
  if (type.startsWith('memory-backend-')) return 'opens a file of the host for writing';
  return `${type} is not known to be harmless`;
}

const HARMLESS_BACKENDS: ReadonlySet<string> = new Set([
  'none',
  'null',
  'ringbuf',
  'stdio',
  'pty',
  'msmouse',
  'spicevmc',
]);
const FILE_KEYS: ReadonlySet<string> = new Set(['logfile', 'tls-creds', 'in', 'out', 'input-path']);

function checkCharacterDevice(option: Option, socketFolders: readonly string[]): string | undefined {
  const device = characterDeviceOf(option);
  if (device === undefined) return undefined;
  const { backend, path: file, server, properties } = device;
  if (properties.some(({ key }) => FILE_KEYS.has(key))) return 'writes a file of the host';
  if (HARMLESS_BACKENDS.has(backend)) return undefined;
  const isMonitor = device.withMonitor || !['serial', 'parallel', 'debugcon'].includes(option.name);
  if (backend === 'vc') return isMonitor ? "shows QEMU's monitor to whoever sees the display" : undefined;
  if (backend !== 'socket') return `opens ${file ?? backend} on the host`;
  if (file === undefined)
    return isMonitor ? "opens QEMU's monitor to the network" : 'opens a network connection';
  if (!server) return `connects to another program's socket ${file}`;
  return isBelow(file, socketFolders)
    ? undefined
    : `creates the socket ${file} outside of ${SOCKET_FOLDERS.join(', ')}`;
}

function socketFolders(): readonly string[] {
  const own = process.env['XDG_RUNTIME_DIR'];
  return own === undefined ? SOCKET_FOLDERS : [...SOCKET_FOLDERS, own];
}

function isBelow(file: string, folders: readonly string[]): boolean {
  return path.isAbsolute(file) && folders.some((folder) => path.normalize(file).startsWith(`${folder}/`));
}

const USER_NETWORK_KEYS: ReadonlySet<string> = new Set(
  `type id name model macaddr mac addr vectors netdev ipv4 ipv6 net host ipv6-net ipv6-host ipv6-prefix ipv6-prefixlen
  ipv6-dns restrict hostname dhcpstart dns dnssearch domainname hostfwd`.split(/\s+/),
);

function checkNetwork(option: Option): string | undefined {
  const type = propertyOf(option, 'type') ?? '';
  const properties = propertiesOf(option);
  if (['none', 'nic', 'hubport'].includes(type)) return undefined;
  if (type === 'tap') return checkTap(properties);
  if (type !== 'user') return `${type} networking reaches other programs or runs a helper`;
  // JSON and later versions number repeated options: hostfwd.0.str.
  const other = properties.find(({ key }) => !USER_NETWORK_KEYS.has(key.split('.')[0]!));
  return other === undefined ? undefined : `${other.key} can run a program or read files of the host`;
}

/** Without script=no QEMU runs /etc/qemu-ifup. */
function checkTap(properties: readonly Property[]): string | undefined {
  const get = (key: string): string | undefined =>
    properties.findLast((property) => property.key === key)?.value;
  if (get('script') !== 'no' || get('downscript') !== 'no')
    return 'runs a script (without script=no,downscript=no)';
  if (get('helper') !== undefined || get('br') !== undefined) return 'runs a helper program';
  return undefined;
}

/** Dotted keys of -drive and -blockdev that stay within one image; others open further files or connections. */
const IMAGE_KEY = /^[^.]+$|^file\.(driver|filename|locking|aio|node-name)$|^(file\.)?cache\.|^throttling\./;
const IMAGE_DRIVERS: ReadonlySet<string> = new Set(
  'file host_device raw qcow2 qed vdi vhdx vmdk vpc null-co null-aio throttle copy-on-read'.split(' '),
);

function checkDrive(option: Option): string | undefined {
  const properties = propertiesOf(option);
  const get = (key: string): string | undefined =>
    properties.findLast((property) => property.key === key)?.value;
  const readOnly =
    isOn(get('readonly')) || isOn(get('read-only')) || isOn(get('snapshot')) || get('media') === 'cdrom';
  return checkImageOptions(properties, readOnly);
}

function checkBlockdev(option: Option): string | undefined {
  return checkImageOptions(propertiesOf(option), isOn(propertyOf(option, 'read-only')));
}

function checkImageOptions(properties: readonly Property[], readOnly: boolean): string | undefined {
  for (const { key, value } of properties) {
    if (!IMAGE_KEY.test(key)) return `its ${key} may open other files or connections`;
    if (/^(format|driver|file\.driver)$/.test(key) && !IMAGE_DRIVERS.has(value))
      return `${value} opens more than an image`;
    if (!/^(file|filename|file\.filename)$/.test(key) || value.startsWith('null-co:')) continue;
    const reason = checkImage(value) ?? (readOnly ? undefined : `lets the guest write to ${value}`);
    if (reason !== undefined) return reason;
  }
  return undefined;
}

/** `nbd:…`, `ssh://…`, `fat:rw:DIR`, `json:{…}`: a prefix selects another driver than a plain file. */
function checkImage(file: string): string | undefined {
  return /^[A-Za-z][A-Za-z0-9+.-]*:/.test(file) ? `${file} is more than a file name` : undefined;
}

function checkDisplay(option: Option, socketFolders: readonly string[]): string | undefined {
  const type = propertyOf(option, 'type') ?? '';
  if (type === 'vnc' || type.startsWith('vnc='))
    return checkVnc({ name: 'vnc', value: type.slice('vnc='.length) }, socketFolders);
  const vnc = propertyOf(option, 'vnc');
  if (vnc !== undefined) return checkVnc({ name: 'vnc', value: vnc }, socketFolders);
  return ['none', 'gtk', 'sdl', 'curses'].includes(type)
    ? undefined
    : `the display ${type} is not known to be harmless`;
}

function checkVnc(option: Option, socketFolders: readonly string[]): string | undefined {
  const [listen, ...settings] = propertiesOf(option);
  if (settings.some(({ key }) => !/^(share|password|lossy|non-adaptive|power-control|to)$/.test(key)))
    return 'has settings that may reach other programs';
  const address = listen?.value ?? '';
  if (address === 'none' || /^(127\.0\.0\.1|localhost|\[?::1\]?):/.test(address)) return undefined;
  if (address.startsWith('unix:') && isBelow(address.slice('unix:'.length), socketFolders)) return undefined;
  return "opens the guest's display to the network";
}

function checkAudio(option: Option): string | undefined {
  const driver = propertyOf(option, 'driver') ?? '';
  return ['none', 'spice'].includes(driver) ? undefined : `the sound driver ${driver} reaches other programs`;
}
