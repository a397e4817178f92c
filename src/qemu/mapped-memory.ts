/**
 * Makes main memory a private mapping of a file. Every process that maps the file shares its pages; what a guest writes
 * stays private and never reaches the file.
 */
import { VmckptError } from '../errors.js';
import {
  formatProperties,
  isOn,
  parseCommandLine,
  propertiesOf,
  propertyOf,
  toArgv,
  type Option,
  type Property,
} from './command-line.js';

/** A file that vmckpt made as the raw memory of a generation (src/checkpoint/raw-memory.ts). */
const OWN_FILE = /\/[1-9][0-9]*\/raw-memory$/;
const FILE_BACKEND = 'memory-backend-file';
/** Options that make memory in another way. */
const REPLACED_OPTIONS: ReadonlySet<string> = new Set(['mem-path', 'mem-prealloc']);

export interface MappedMemory {
  readonly file: string;
  /** QEMU's name for the RAM block, and the id of the back-end. */
  readonly block: string;
  readonly sizeBytes: number;
  /** Whether QEMU opens the file for reading only (see opensMemoryReadOnly). */
  readonly readOnly: boolean;
}

/**
 * Whether that version of QEMU, and later ones, map a file that was opened for reading only (since 8.2). Older versions
 * open it for writing, and would punch holes into it for memory that the guest gives back (balloon).
 */
export function opensMemoryReadOnly(version: string): boolean {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(version) ?? [];
  return Number(major) > 8 || (Number(major) === 8 && Number(minor) >= 2);
}

/** @throws VmckptError MAP_REFUSED naming the option that a mapping cannot replace */
export function mapMainMemory(argv: readonly string[], memory: MappedMemory): string[] {
  const options = parseCommandLine(argv).filter(({ name }) => !REPLACED_OPTIONS.has(name));
  const given = memoryOf(options);
  if (given !== undefined && given !== memory.block)
    throw refused(`the command line calls main memory "${given}", the checkpoint "${memory.block}"`);
  const replaced = options.findIndex((option) => isBackend(option, memory.block));
  if (replaced >= 0) refuseShared(options[replaced]!);
  const mapped = replaced < 0 ? [...options, mapping(memory)] : options.with(replaced, mapping(memory));
  if (given === undefined) mapped.push({ name: 'machine', value: `memory-backend=${memory.block}` });
  return toArgv(mapped);
}

/**
 * The opposite, for a VM that was restored that way and then saved: its memory becomes ordinary memory again.
 * Otherwise its next restore would map the file of an older checkpoint.
 */
export function withoutMappedMemory(argv: readonly string[]): string[] {
  return toArgv(parseCommandLine(argv).map((option) => (isOwn(option) ? ordinary(option) : option)));
}

function isOwn(option: Option): boolean {
  return (
    option.name === 'object' &&
    propertyOf(option, 'qom-type') === FILE_BACKEND &&
    !isOn(propertyOf(option, 'share')) &&
    OWN_FILE.test(propertyOf(option, 'mem-path') ?? '')
  );
}

function ordinary(option: Option): Option {
  const kept = propertiesOf(option).filter(({ key }) => key === 'id' || key === 'size');
  return backendOf([{ key: 'qom-type', value: 'memory-backend-ram' }, ...kept]);
}

function mapping({ file, block, sizeBytes, readOnly }: MappedMemory): Option {
  const access = readOnly ? { readonly: 'on', rom: 'off' } : {};
  const properties = {
    'qom-type': FILE_BACKEND,
    id: block,
    size: `${sizeBytes}`,
    'mem-path': file,
    share: 'off',
    ...access,
  };
  return backendOf(Object.entries(properties).map(([key, value]) => ({ key, value })));
}

function backendOf(properties: readonly Property[]): Option {
  return { name: 'object', value: formatProperties(properties, 'qom-type') };
}

function isBackend(option: Option, id: string): boolean {
  return option.name === 'object' && propertyOf(option, 'id') === id;
}

/** The back-end that is the machine's memory; undefined if only a size is given. @throws VmckptError MAP_REFUSED */
function memoryOf(options: readonly Option[]): string | undefined {
  const ofMachine = options
    .filter(({ name }) => name === 'machine' || name === 'M')
    .flatMap((option) => propertyOf(option, 'memory-backend') ?? [])
    .at(-1);
  const ofNodes = options
    .filter(({ name }) => name === 'numa')
    .flatMap((option) => propertyOf(option, 'memdev') ?? []);
  if (ofNodes.length > 1) throw refused(`-numa puts memory in several pieces (${ofNodes.join(', ')})`);
  return ofMachine ?? ofNodes[0];
}

function refuseShared(option: Option): void {
  const share = propertyOf(option, 'share');
  // A memfd is shared by default.
  const isShared =
    share === undefined ? propertyOf(option, 'qom-type') === 'memory-backend-memfd' : isOn(share);
  if (isShared) throw refused(`-object ${option.value} is shared with other processes, a mapping is private`);
}

function refused(why: string): VmckptError {
  return new VmckptError('MAP_REFUSED', `its memory cannot be mapped from a file: ${why}`, {
    hint: 'Restore it in another mode: vmckpt restore NAME, or --mode eager.',
  });
}
