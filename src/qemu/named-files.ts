/**
 * The host's files and folders that a command line names, and how QEMU uses each: one table of all options. Unknown
 * options are left out, and so are QEMU's own open files (unrepeatable.ts). Source: qemu-system(1) and the QAPI
 * reference, versions 7.2 to 10.
 */
import { CHARACTER_DEVICE_OPTIONS, characterDeviceOf } from './character-device.js';
import { isOn, propertiesOf, propertyOf, type Option } from './command-line.js';
import { placeOfName } from './image-reference.js';
import { namesDescriptor } from './unrepeatable.js';

export interface NamedFile {
  /** As written in the command line: `-kernel vmlinuz`. */
  readonly option: string;
  readonly name: string;
  /**
   * `read`: the file must exist. `written`: QEMU creates it, and has it open as long as it runs. `listen`: a unix
   * socket of QEMU's. `connect`: a socket of another program.
   */
  readonly use: 'read' | 'written' | 'listen' | 'connect' | 'pidfile';
  /** An alternative name of the file. */
  readonly or?: string;
}

export function namedFiles(options: readonly Option[]): NamedFile[] {
  return options.flatMap((option) => {
    const label = `-${option.name} ${option.value ?? ''}`.trim();
    const files = filesOf(option).filter(({ name }) => !namesDescriptor(name));
    return files.map((file) => ({ ...file, option: label, name: fromOwnFolder(file.name) }));
  });
}

/** `/proc/self/cwd/disk` is `disk`: the folder is QEMU's, not that of the process that reads the name. */
export function fromOwnFolder(name: string): string {
  return name.replace(/^\/+proc\/+(self|thread-self)\/+cwd(?=\/|$)\/*/, './');
}

type Use = Omit<NamedFile, 'option'>;
type Row = (option: Option) => Use[];

function filesOf(option: Option): Use[] {
  const row = Object.hasOwn(OPTIONS, option.name) ? OPTIONS[option.name] : undefined;
  return row === undefined ? [] : row(option);
}

function rows(names: string, row: Row): Record<string, Row> {
  return Object.fromEntries(names.split(/\s+/).map((name) => [name, row]));
}

type Taking = (value: string | undefined) => Use[];

const whole =
  (taking: Taking): Row =>
  ({ value }) =>
    taking(value);

/** For properties whose whole name matches. */
const properties =
  (keys: RegExp, taking: Taking): Row =>
  (option) =>
    propertiesOf(option).flatMap(({ key, value }) => (keys.test(key) ? taking(value) : []));

const all =
  (...parts: readonly Row[]): Row =>
  (option) =>
    parts.flatMap((part) => part(option));

/** By the type of a back-end, device or object. */
const byKind =
  (key: string, table: readonly (readonly [RegExp, Row])[]): Row =>
  (option) => {
    const kind = propertyOf(option, key) ?? '';
    return table.find(([pattern]) => pattern.test(kind))?.[1](option) ?? [];
  };

/** Scripts have a default; `no` means none. */
const NETWORKS: readonly (readonly [RegExp, Row])[] = [
  [/^tap$/, properties(/^(script|downscript|helper)$/, (file) => (file === 'no' ? [] : read(file)))],
  [/^bridge$/, properties(/^helper$/, read)],
  [/^user$/, properties(/^(smb|tftp)$/, read)],
  [
    /^stream$/,
    (option) => (isOn(propertyOf(option, 'server')) ? listens(propertyOf(option, 'addr.path')) : []),
  ],
  [/^dgram$/, properties(/^local\.path$/, listens)],
  [/^vhost-vdpa$/, properties(/^vhostdev$/, read)],
];

const OPTIONS: Readonly<Record<string, Row>> = {
  ...rows('kernel dtb shim', whole(read)),
  initrd: whole(modules),
  ...rows('bios', whole(firmware)),
  'option-rom': all(
    whole((value) => (value?.includes('=') ? [] : firmware(value))),
    properties(/^romfile$/, firmware),
  ),
  ...rows(
    'machine M',
    all(properties(/^(kernel|initrd|dtb|shim)$/, read), properties(/^firmware$/, firmware)),
  ),
  global: all(properties(/\.romfile$/, firmware), globalRom),
  ...rows('L mem-path', whole(read)),
  ...rows('hda hdb hdc hdd fda fdb cdrom sd mtdblock pflash', whole(image)),
  drive: all(properties(/^file$|(^|\.)filename$/, image), properties(/(^|\.)dir$/, read), remoteNode),
  blockdev: all(properties(/(^|\.)filename$/, image), properties(/(^|\.)dir$/, read), remoteNode),
  ...rows(['chardev', ...CHARACTER_DEVICE_OPTIONS].join(' '), filesOfCharacterDevice),
  D: whole((value) => (value?.includes('%') ? [] : written(value))),
  pidfile: whole((value = '') => [{ name: value, use: 'pidfile' }]),
  ...rows('writeconfig dump-vmstate', whole(written)),
  boot: properties(/^splash$/, firmware),
  acpitable: properties(/^(data|file)$/, (list) => (list ?? '').split(':').flatMap(read)),
  ...rows('smbios fw_cfg plugin', properties(/^file$/, read)),
  trace: all(properties(/^events$/, read), properties(/^file$/, written)),
  icount: (option) => (propertyOf(option, 'rr') === 'replay' ? read : written)(propertyOf(option, 'rrfile')),
  ...rows('fsdev virtfs', properties(/^path$|^socket$/, read)),
  tpmdev: properties(/^(path|cancel-path)$/, read),
  ...rows(
    'audiodev audio',
    byKind('driver', [
      [/^wav$/, properties(/^path$/, written)],
      [/^pa$/, properties(/^server$/, soundServer)],
      [/^oss$/, properties(/\.dev$/, read)],
    ]),
  ),
  vnc: properties(/^vnc$/, displaySocket),
  display: all(properties(/^vnc$/, displaySocket), properties(/^rendernode$/, read)),
  spice: all(properties(/^(x509-dir|x509-.*-file|rendernode)$/, read), (option) =>
    isOn(propertyOf(option, 'unix')) ? listens(propertyOf(option, 'addr')) : [],
  ),
  ...rows('netdev nic', byKind('type', NETWORKS)),
  device: all(
    properties(/^romfile$/, firmware),
    properties(/^(rootdir|evdev|hidraw|sysfsdev|vhostdev)$/, read),
    byKind('driver', [[/^(guest-)?loader$/, properties(/^file$/, read)]]),
  ),
  object: byKind('qom-type', [
    [/^rng-random$|^authz-list-file$/, properties(/^filename$/, read)],
    [/^tls-creds-/, properties(/^dir$/, read)],
    [/^secret/, properties(/^file$/, read)],
    [/^filter-dump$/, properties(/^file$/, written)],
    [/^input-linux$/, properties(/^evdev$/, read)],
    [/^sev-/, properties(/-file$/, read)],
    [
      /^memory-backend-file$/,
      (option) => (isOn(propertyOf(option, 'readonly')) ? read : written)(propertyOf(option, 'mem-path')),
    ],
  ]),
};

const HOST_DEVICES: ReadonlySet<string> = new Set(['serial', 'tty', 'parallel', 'parport']);

function filesOfCharacterDevice(option: Option): Use[] {
  const device = characterDeviceOf(option);
  if (device === undefined) return [];
  const { backend, path, server } = device;
  const get = (key: string) => device.properties.findLast((property) => property.key === key)?.value;
  const others = [...written(get('logfile')), ...read(get('input-path'))];
  if (path === undefined) return others;
  if (backend === 'file') return [...written(path), ...others];
  // QEMU first looks for a pair of pipes.
  if (backend === 'pipe') return [{ name: path, or: `${path}.in`, use: 'read' }, ...others];
  if (backend === 'socket' && (server || option.name === 'gdb')) return [...listens(path), ...others];
  if (backend === 'socket') return [...(connectsAgain(get) ? [] : connects(path)), ...others];
  return HOST_DEVICES.has(backend) ? [...read(path), ...others] : others;
}

/** Whether QEMU starts even without the peer. */
export function connectsAgain(get: (key: string) => string | undefined): boolean {
  return Number(get('reconnect') ?? get('reconnect-ms') ?? 0) > 0;
}

/** A server that provides the node, by its unix socket. */
function remoteNode(option: Option): Use[] {
  const drivers = propertiesOf(option).filter(
    ({ key, value }) => /(^|\.)driver$/.test(key) && value === 'nbd',
  );
  return drivers.flatMap(({ key }) => {
    const prefix = key.slice(0, -'driver'.length);
    return connects(propertyOf(option, `${prefix}path`) ?? propertyOf(option, `${prefix}server.path`));
  });
}

/** `driver=…,property=romfile,value=…` */
function globalRom(option: Option): Use[] {
  return propertyOf(option, 'property') === 'romfile' ? firmware(propertyOf(option, 'value')) : [];
}

/** The modules of a multiboot kernel are `FILE ARGUMENTS,FILE ARGUMENTS`; for another kernel it is one file name. */
function modules(value: string | undefined = ''): Use[] {
  if (!/[, ]/.test(value)) return read(value);
  const words = value.split(/(?<!,),(?!,)/).map((word) => word.replaceAll(',,', ','));
  return words.flatMap((word) => read(word.split(' ')[0])).map((use) => ({ ...use, or: value }));
}

function displaySocket(value: string | undefined = ''): Use[] {
  return value.startsWith('unix:') ? listens(value.slice('unix:'.length)) : [];
}

function soundServer(value: string | undefined = ''): Use[] {
  const file = value.replace(/^unix:/, '');
  return file.startsWith('/') ? connects(file) : [];
}

function read(name: string | undefined): Use[] {
  return name === undefined || name === '' ? [] : [{ name, use: 'read' }];
}

function written(name: string | undefined): Use[] {
  return name === undefined ? [] : [{ name, use: 'written' }];
}

function listens(name: string | undefined): Use[] {
  return name === undefined ? [] : [{ name, use: 'listen' }];
}

function connects(name: string | undefined): Use[] {
  return name === undefined ? [] : [{ name, use: 'connect' }];
}

/** A name without a slash may be one of QEMU's own files. */
function firmware(name: string | undefined): Use[] {
  return name?.includes('/') ? read(name) : [];
}

/** The local files of an image that may be on the network, or use another driver. */
function image(name: string | undefined = ''): Use[] {
  if (name === '') return [];
  const place = placeOfName(name);
  if (place.kind === 'file') return read(place.path);
  if (place.kind === 'nbd') return connects(/^unix:(.*)$/s.exec(place.server)?.[1]);
  return read(place.options['dir']);
}
