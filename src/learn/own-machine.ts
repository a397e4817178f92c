/**
 * The command line of a learning VM. It runs beside the original, in a network of its own: ports stay, its sockets and
 * logs lie in a folder of its own, what it writes to disks is dropped when it ends. Whatever else could reach out of
 * there, or touch what the original has, is refused by name.
 */
import path from 'node:path';
import type { Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { characterDeviceOf, type CharacterDevice } from '../qemu/character-device.js';
import {
  isOn,
  parseCommandLine,
  propertyOf,
  toArgv,
  withProperties,
  type Option,
} from '../qemu/command-line.js';

/** Network backends that end in the network of their process; others have something of the host's. */
const ENCLOSED_NETWORKS: ReadonlySet<string> = new Set(['user', 'socket', 'hubport', 'none', 'nic']);
/** Character devices that are something of the host's. */
const HOST_DEVICES: ReadonlySet<string> = new Set(['pipe', 'serial', 'tty', 'parallel', 'parport']);

/** @throws VmckptError COMMAND_LINE_UNSUPPORTED, DISKS_WRITABLE */
export function ownMachine(manifest: Manifest, folder: string): string[] {
  const options = parseCommandLine(manifest.commandLine);
  const refused = options.filter(reachesOut);
  if (refused.length > 0)
    throw new VmckptError(
      'COMMAND_LINE_UNSUPPORTED',
      `a VM that learns cannot share ${refused.map(({ name, value }) => `-${name} ${value}`).join('; ')}`,
      { hint: 'Learn from ordinary restores instead: each one teaches.' },
    );
  refuseWritableDisks(manifest, options);
  const place = ownPlaces(folder);
  return toArgv(options.map((option) => dropWrites(moved(option, place))));
}

function reachesOut(option: Option): boolean {
  const { name, value = '' } = option;
  const has = (key: string) => propertyOf(option, key);
  const device = characterDeviceOf(option);
  if (device !== undefined) return isHosts(device, name);
  switch (name) {
    case 'netdev':
    case 'nic':
    case 'net':
      return !ENCLOSED_NETWORKS.has(has('type') ?? 'user');
    case 'vnc':
    case 'spice':
    case 'display':
      return /unix[:=]/.test(value);
    case 'device':
      return has('guest-cid') !== undefined || /^(usb-host|vfio-.*)$/.test(has('driver') ?? '');
    case 'object':
      return (
        has('qom-type') === 'filter-dump' || (has('qom-type') === 'memory-backend-file' && isOn(has('share')))
      );
    case 'fsdev':
    case 'virtfs':
      return !isOn(has('readonly'));
    default:
      return ['tpmdev', 'usbdevice', 'trace', 'plugin', 'audiodev', 'writeconfig'].includes(name);
  }
}

function isHosts({ backend, path: file, server, properties }: CharacterDevice, name: string): boolean {
  if (HOST_DEVICES.has(backend)) return true;
  const isLogged = properties.some(({ key }) => key === 'logfile');
  return (backend === 'socket' && file !== undefined && !server) || (isLogged && name !== 'chardev');
}

/** A `-drive` gets a temporary overlay; of others nobody can say how. */
function refuseWritableDisks({ blockDevices, workingDirectory }: Manifest, options: readonly Option[]): void {
  const absolute = (file: string) => path.resolve(workingDirectory ?? '/', file);
  const drives = options
    .filter(({ name }) => name === 'drive')
    .map((drive) => propertyOf(drive, 'file'))
    .filter((file) => file !== undefined);
  const covered = new Set(drives.map(absolute));
  const found = blockDevices.filter(
    ({ file, readOnly }) => !readOnly && (file === undefined || !covered.has(absolute(file))),
  );
  if (found.length === 0) return;
  throw new VmckptError(
    'DISKS_WRITABLE',
    `a VM that learns must not write to ${found.map(({ node, file }) => file ?? node).join(', ')}`,
    { hint: 'Disks that are attached as -drive file=… get a temporary overlay.' },
  );
}

function dropWrites(option: Option): Option {
  const isReadOnly = isOn(propertyOf(option, 'readonly') ?? propertyOf(option, 'read-only'));
  if (option.name !== 'drive' || isReadOnly || propertyOf(option, 'file') === undefined) return option;
  return withProperties(option, { snapshot: 'on' });
}

/** Files of the same name get a number. */
function ownPlaces(folder: string): (file: string) => string {
  const taken = new Set<string>();
  return (file) => {
    const { name, ext } = path.parse(file);
    for (let count = 1; ; count++) {
      const place = path.join(folder, `${name}${count === 1 ? '' : `-${count}`}${ext}`);
      if (taken.has(place)) continue;
      taken.add(place);
      return place;
    }
  };
}

function moved(option: Option, place: (file: string) => string): Option {
  const { name, value = '' } = option;
  if (name === 'D') return { name, value: place(value) };
  const device = characterDeviceOf(option);
  if (device === undefined) return option;
  const { backend, path: file, withMonitor } = device;
  const isOwn = file !== undefined && (backend === 'socket' || backend === 'file');
  if (name === 'chardev') {
    const logfile = propertyOf(option, 'logfile');
    return withProperties(option, {
      ...(isOwn && { path: place(file) }),
      ...(logfile !== undefined && { logfile: place(logfile) }),
    });
  }
  if (!isOwn) return option;
  const rest = /^(?:[^,]|,,)*((?:,.*)?)$/s.exec(value)?.[1] ?? '';
  const kind = backend === 'socket' ? 'unix' : 'file';
  const to = place(file).replaceAll(',', ',,');
  return { name, value: `${withMonitor ? 'mon:' : ''}${kind}:${to}${rest}` };
}
