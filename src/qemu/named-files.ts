/**
 * The host's files that a command line names, and what QEMU does with each. What is not known here is left out, and so
 * are open files of QEMU's own (unrepeatable.ts).
 */
import { characterDeviceOf } from './character-device.js';
import { propertiesOf, propertyOf, type Option } from './command-line.js';
import { namesDescriptor } from './unrepeatable.js';

export interface NamedFile {
  /** As it stands in the command line: `-kernel vmlinuz`. */
  readonly option: string;
  readonly name: string;
  /**
   * `read`: it must be there. `written`: QEMU makes it, and has it open as long as it runs. `listen`: a unix
   * socket of QEMU's.
   */
  readonly use: 'read' | 'written' | 'listen' | 'pidfile';
}

/** Their value is a file's name. */
const READ_OPTIONS: ReadonlySet<string> = new Set(['kernel', 'dtb', 'shim']);
/** Their value may also be the name of a file of QEMU's own. */
const FIRMWARE_OPTIONS: ReadonlySet<string> = new Set(['bios', 'option-rom']);
const DISK_OPTIONS = /^(hd[a-d]|fd[ab]|cdrom|sd|mtdblock|pflash)$/;
const HOST_DEVICES: ReadonlySet<string> = new Set(['serial', 'tty', 'parallel', 'parport']);

export function namedFiles(options: readonly Option[]): NamedFile[] {
  return options.flatMap((option) => {
    const label = `-${option.name} ${option.value ?? ''}`.trim();
    const files = filesOf(option).filter(({ name }) => !namesDescriptor(name));
    return files.map(({ name, use }) => ({ option: label, name: fromOwnFolder(name), use }));
  });
}

/** `/proc/self/cwd/disk` is `disk`: the folder is QEMU's, and not that of the process that looks. */
export function fromOwnFolder(name: string): string {
  return name.replace(/^\/+proc\/+(self|thread-self)\/+cwd(?=\/|$)\/*/, './');
}

type Use = Omit<NamedFile, 'option'>;

function filesOf(option: Option): Use[] {
  const { name, value = '' } = option;
  if (characterDeviceOf(option) !== undefined) return filesOfCharacterDevice(option);
  if (READ_OPTIONS.has(name)) return read(value);
  // Modules of a multiboot kernel: FILE ARGUMENTS,FILE ARGUMENTS
  if (name === 'initrd') return /[, ]/.test(value) ? [] : read(value);
  if (FIRMWARE_OPTIONS.has(name)) return firmware(value);
  if (DISK_OPTIONS.test(name)) return read(imageFile(value));
  if (name === 'drive' || name === 'blockdev') return filesOfDisk(option);
  if (name === 'D') return value.includes('%') ? [] : [{ name: value, use: 'written' }];
  if (name === 'pidfile') return [{ name: value, use: 'pidfile' }];
  const get = (key: string) => propertyOf(option, key);
  if (name === 'fsdev' || name === 'virtfs') return read(get('path'));
  if (name === 'smbios' || name === 'fw_cfg' || name === 'plugin') return read(get('file'));
  if (name === 'device')
    return [
      ...firmware(get('romfile')),
      ...(/^(guest-)?loader$/.test(get('driver') ?? '') ? read(get('file')) : []),
    ];
  if (name === 'object') return filesOfObject(option);
  return [];
}

function filesOfCharacterDevice(option: Option): Use[] {
  const { backend, path, server, properties } = characterDeviceOf(option)!;
  const logfile = properties.findLast(({ key }) => key === 'logfile')?.value;
  const log: Use[] = logfile === undefined ? [] : [{ name: logfile, use: 'written' }];
  if (path === undefined) return log;
  if (backend === 'file') return [{ name: path, use: 'written' }, ...log];
  if (backend === 'socket' && server) return [{ name: path, use: 'listen' }, ...log];
  return HOST_DEVICES.has(backend) ? [...read(path), ...log] : log;
}

function filesOfDisk(option: Option): Use[] {
  return propertiesOf(option).flatMap(({ key, value }) => {
    if (option.name === 'drive' && key === 'file') return read(imageFile(value));
    return /(^|\.)filename$/.test(key) ? read(imageFile(value)) : [];
  });
}

function filesOfObject(option: Option): Use[] {
  const type = propertyOf(option, 'qom-type') ?? '';
  if (type === 'rng-random') return read(propertyOf(option, 'filename'));
  if (type.startsWith('tls-creds-')) return read(propertyOf(option, 'dir'));
  if (type === 'filter-dump') return written(propertyOf(option, 'file'));
  return /^secret/.test(type) ? read(propertyOf(option, 'file')) : [];
}

function read(name: string | undefined): Use[] {
  return name === undefined || name === '' ? [] : [{ name, use: 'read' }];
}

function written(name: string | undefined): Use[] {
  return name === undefined ? [] : [{ name, use: 'written' }];
}

function firmware(name: string | undefined): Use[] {
  return name?.includes('/') ? read(name) : [];
}

/** Undefined for an image that is on the network, or comes from another driver. */
function imageFile(name: string): string | undefined {
  const plain = name.replace(/^file:/, '');
  return /^[A-Za-z][A-Za-z0-9+.-]*:/.test(plain) ? undefined : plain;
}
