/**
 * The files that QEMU writes. At its start QEMU truncates them, and with them the output of the saved VM. Where an
 * option can append, a restore makes it append; other files are renamed before QEMU starts.
 */
import { existsSync, lstatSync, renameSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { characterDeviceOf } from './character-device.js';
import { parseCommandLine, withProperties, type Option } from './command-line.js';
import { STAYING, visitHost } from './host-resources.js';
import type { User } from './start-as.js';

/** Makes the options append to the files of their character devices, unless they say otherwise. */
export function appendToFiles(options: readonly Option[]): Option[] {
  const counts = new Map<string, number>();
  return options.flatMap((option) => {
    const count = counts.get(option.name) ?? 0;
    counts.set(option.name, count + 1);
    return appended(option, LABELS[option.name]?.(count));
  });
}

/** QEMU's names for character devices of options in the older notation. A monitor cannot get a -chardev instead. */
const LABELS: Readonly<Record<string, (count: number) => string>> = {
  serial: (count) => `serial${count}`,
  parallel: (count) => `parallel${count}`,
  debugcon: () => 'debugcon',
};

function appended(option: Option, label: string | undefined): Option[] {
  const device = characterDeviceOf(option);
  if (device === undefined) return [option];
  const isFile = device.backend === 'file';
  if (isFile && label !== undefined) return withChardev(option, label);
  const has = (key: string) => device.properties.some((property) => property.key === key);
  const missing = [
    ...(isFile && option.name === 'chardev' && !has('append') ? [',append=on'] : []),
    ...(has('logfile') && !has('logappend') ? [',logappend=on'] : []),
  ];
  return [{ name: option.name, value: `${option.value}${missing.join('')}` }];
}

/** The older notation (`-serial file:PATH`) cannot append: the device gets a -chardev with the same name. */
function withChardev({ name, value }: Option, id: string): Option[] {
  const [, mon, file = ''] = /^(mon:)?file:(.*)$/s.exec(value!)!;
  const chardev = { name: 'chardev', value: `file,id=${id}` };
  return [
    withProperties(chardev, { path: file, append: 'on', ...(mon !== undefined && { mux: 'on' }) }),
    { name, value: `chardev:${id}` },
    ...(mon === undefined ? [] : [{ name: 'mon', value: `chardev=${id}` }]),
  ];
}

export interface EmptyingQemu {
  readonly args: readonly string[];
  readonly cwd: string;
  /** The user as whom it will run, if not this process's. */
  readonly socketOwner?: User;
}

/**
 * Renames files that QEMU would truncate to FILE.1, or to the next number. Leaves another user's files alone.
 * @throws VmckptError NOT_PERMITTED when a file could not be renamed
 */
export function setWrittenFilesAside(qemu: EmptyingQemu, onMessage: (text: string) => void): void {
  for (const { option, file } of emptiedFiles(qemu)) {
    const label = `-${option.name} ${option.value ?? ''}`;
    if (qemu.socketOwner !== undefined) {
      onMessage(
        `QEMU, as another user, truncates ${file} (${label}) when it starts: its former contents are lost.`,
      );
      continue;
    }
    const aside = freeNumber(file);
    try {
      renameSync(file, aside);
    } catch (cause) {
      throw new VmckptError(
        'NOT_PERMITTED',
        `QEMU would truncate ${file} (${label}), which cannot be renamed`,
        {
          hint: 'Move it to another place, and restore again.',
          cause,
        },
      );
    }
    onMessage(`QEMU truncates ${file} (${label}) when it starts: its former contents are now in ${aside}.`);
  }
}

function emptiedFiles({ args, cwd }: EmptyingQemu): { readonly option: Option; readonly file: string }[] {
  const options = parseCommandLine(args).filter((option) => {
    const device = characterDeviceOf(option);
    return device === undefined || (device.backend === 'file' && option.name !== 'chardev');
  });
  const written = options.flatMap((option) => {
    const names: string[] = [];
    visitHost(option, { ...STAYING, file: (name) => (names.push(name), name) });
    return names.map((name) => ({ option, file: path.resolve(cwd, name) }));
  });
  return written.filter(({ file }) => {
    const found = lstatSync(file, { throwIfNoEntry: false });
    return found?.isFile() === true && found.size > 0;
  });
}

function freeNumber(file: string): string {
  for (let number = 1; ; number++) if (!existsSync(`${file}.${number}`)) return `${file}.${number}`;
}
