/**
 * Which options of a checkpoint's command line may run without the user's explicit trust. A checkpoint can be
 * hostile, and its maker wrote its command line.
 *
 * An option is harmless if it only shapes the guest's own hardware, reads ordinary files as the guest's firmware,
 * kernel or read-only disk, connects the guest through user-mode networking, or opens consoles that only this host's
 * user can reach. An option is not harmless if it can run a program, write or create a file of the host (including a
 * writable disk), give a host device or another program's socket to the guest, or open QEMU's monitor or memory to
 * the network. This is an allow-list of options, devices, back-ends and keys, and of one way to write them
 * (trust/grammar.ts). What is unknown, or can be read in two ways, is not trusted.
 */
import path from 'node:path';
import { CHARACTER_DEVICE_OPTIONS } from './character-device.js';
import { parseCommandLine, type Option } from './command-line.js';
import { console, display, vnc } from './trust/consoles.js';
import { blockdev, drive, shortDisk } from './trust/disks.js';
import { keys, matching, oneOf, properties, text, word, type Check, type Where } from './trust/grammar.js';
import { firmware, firmwareFolder, ordinaryFile, SOCKET_FOLDERS } from './trust/host-files.js';
import {
  accelerator,
  acpiTable,
  device,
  firmwareConfig,
  globalProperty,
  machine,
  object,
  smbios,
} from './trust/machine.js';
import { network, sound } from './trust/networks.js';

export interface UntrustedOption {
  /** As written in the command line: `-device vfio-pci,host=…`. */
  readonly option: string;
  readonly reason: string;
}

/** Options without a value. */
const FLAGS =
  `h help version snapshot usb nographic portrait full-screen win2k-hack no-fd-bootchk no-acpi no-hpet
  nodefaults mem-prealloc singlestep one-insn-per-tb enable-kvm no-reboot no-shutdown only-migratable no-user-config
  nodefconfig async-teardown enable-sync-profile no-quit S`.split(/\s+/);

const value =
  (check: (text: string, where: Where) => string | undefined): Check =>
  (option, where) =>
    check(option.value ?? '', where);
const of = (names: string): Check => properties({ keys: new Map(keys(names)) });

const RULES: ReadonlyMap<string, Check> = new Map(
  Object.entries<Check>({
    ...Object.fromEntries(FLAGS.map((name): [string, Check] => [name, () => undefined])),
    ...Object.fromEntries(CHARACTER_DEVICE_OPTIONS.map((name): [string, Check] => [name, console])),
    ...Object.fromEntries(
      'hda hdb hdc hdd cdrom fda fdb sd mtdblock pflash'
        .split(' ')
        .map((name): [string, Check] => [name, shortDisk]),
    ),
    ...Object.fromEntries(
      'uuid vga g k seed echr watchdog watchdog-action rotate'
        .split(' ')
        .map((name): [string, Check] => [name, value(word)]),
    ),
    chardev: console,
    gdb: () => 'gives access to all of the guest through a debugger',
    machine,
    M: machine,
    accel: accelerator,
    cpu: value(matching(/^[\w.-]+(,[+-]?[\w.-]+(=[\w.+ -]*)?)*$/)),
    device,
    global: globalProperty,
    object,
    netdev: network,
    nic: network,
    net: network,
    drive,
    blockdev,
    display,
    vnc,
    audiodev: sound,
    audio: sound,
    smbios,
    acpitable: acpiTable,
    fw_cfg: firmwareConfig,
    name: of('guest debug-threads'),
    m: of('size slots maxmem'),
    smp: of('cpus sockets dies clusters modules cores threads books drawers maxcpus'),
    numa: properties({
      keys: new Map(
        keys(`type nodeid mem memdev cpus initiator src dst val node-id socket-id die-id cluster-id module-id core-id
          thread-id target hierarchy data-type latency bandwidth size level associativity policy line`),
      ),
      lists: 'cpus',
    }),
    boot: properties({
      keys: new Map([
        ...keys('order once menu splash-time reboot-timeout strict'),
        ...keys('splash', firmware),
      ]),
    }),
    rtc: of('base clock driftfix'),
    icount: of('shift align sleep'),
    action: of('reboot shutdown panic watchdog'),
    overcommit: of('mem-lock cpu-pm'),
    msg: of('timestamp guest-name'),
    compat: of('deprecated-input deprecated-output unstable-input unstable-output'),
    sandbox: of('enable obsolete elevateprivileges spawn resourcecontrol'),
    mon: of('chardev mode pretty'),
    'option-rom': properties({ keys: new Map([...keys('romfile', firmware), ...keys('bootindex')]) }),
    kernel: value(ordinaryFile),
    dtb: value(ordinaryFile),
    bios: value(firmware),
    initrd: value((name, where) => (/[, ]/.test(name) ? 'names several files' : ordinaryFile(name, where))),
    append: value(text),
    L: value(firmwareFolder),
    usbdevice: ({ value: what = '' }) =>
      /^(tablet|mouse|keyboard)$/.test(what) ? undefined : 'may hand over a device of the host',
    incoming: value(oneOf('defer')),
  }),
);

export interface TrustOptions {
  /** A folder in which QEMU may create any socket. */
  readonly ownFolder?: string | undefined;
  /** The folder from which relative paths are resolved. */
  readonly cwd?: string | undefined;
}

/**
 * @param argv as QEMU would get it, without the program's name
 * @returns an entry for each option that needs --trust-command-line
 */
export function untrustedOptions(
  argv: readonly string[],
  { ownFolder, cwd }: TrustOptions = {},
): UntrustedOption[] {
  const options = parseCommandLine(argv);
  const own = [ownFolder, process.env['XDG_RUNTIME_DIR']]
    .filter((folder) => folder !== undefined && path.isAbsolute(folder))
    .map((folder) => path.resolve(folder!));
  const where: Where = {
    cwd: cwd ?? '/',
    socketFolders: [...own, ...SOCKET_FOLDERS],
    discardsWrites: options.some(({ name }) => name === 'snapshot'),
  };
  return options.flatMap((option) => {
    const reason = reasonAgainst(option, where);
    return reason === undefined ? [] : [{ option: `-${option.name} ${option.value ?? ''}`.trim(), reason }];
  });
}

function reasonAgainst(option: Option, where: Where): string | undefined {
  const { name, value: text = '' } = option;
  if (/\p{Cc}/u.test(text)) return 'holds control characters';
  const check = RULES.get(name);
  return check === undefined ? 'is not known to be harmless' : check(option, where);
}
