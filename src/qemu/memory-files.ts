/** Files that hold a VM's memory according to its command line, and their file systems. */
import { statfsSync, statSync } from 'node:fs';
import path from 'node:path';
import { isOn, parseCommandLine, propertyOf, type Option } from './command-line.js';

/** Source: linux/magic.h. */
const MAGICS = { tmpfs: 0x0102_1994, hugetlbfs: 0x9584_58f6 } as const;

export interface MemoryFile {
  readonly option: string;
  /** Absolute. In a folder, QEMU creates an unnamed file of its own. */
  readonly path: string;
  /** The guest's writes go into the file; otherwise QEMU only reads it. */
  readonly isShared: boolean;
}

/** @param cwd the folder from which relative paths in `args` are resolved */
export function memoryFiles(args: readonly string[], cwd: string): MemoryFile[] {
  return parseCommandLine(args).flatMap((option) => {
    const file = pathOf(option);
    if (file === undefined) return [];
    const isShared = isOn(propertyOf(option, 'share'));
    return [{ option: `-${option.name} ${option.value}`, path: path.resolve(cwd, file), isShared }];
  });
}

function pathOf(option: Option): string | undefined {
  if (option.name === 'mem-path') return option.value;
  if (option.name !== 'object' || propertyOf(option, 'qom-type') !== 'memory-backend-file') return undefined;
  return propertyOf(option, 'mem-path');
}

/** The file system of the file, even if it does not exist yet; undefined when the folder does not exist. */
export function filesystemOf(file: string): keyof typeof MAGICS | 'other' | undefined {
  const place = [file, path.dirname(file)].find((candidate) => exists(candidate));
  if (place === undefined) return undefined;
  const { type } = statfsSync(place);
  if (type === MAGICS.tmpfs) return 'tmpfs';
  return type === MAGICS.hugetlbfs ? 'hugetlbfs' : 'other';
}

/** Whether some of the memory comes from the host's pool of huge pages, which does not count as available memory. */
export function usesHugePages(args: readonly string[], cwd: string): boolean {
  const inMemfd = parseCommandLine(args).some(
    (option) => option.name === 'object' && isOn(propertyOf(option, 'hugetlb')),
  );
  return inMemfd || memoryFiles(args, cwd).some((file) => filesystemOf(file.path) === 'hugetlbfs');
}

function exists(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false }) !== undefined;
}
