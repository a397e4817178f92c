/**
 * Replaces files of options (`-readconfig`) by the options that they stand for, because the file may have changed by
 * the time of a restore. Source: qemu-system(1), and the output of QEMU's -writeconfig.
 */
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { optionOf, type Option, type Property } from './command-line.js';

/** Section → option, for sections whose lines mean the same as the properties of the option. */
const OPTION_OF_SECTION: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    `device drive chardev netdev nic net object mon fsdev virtfs global numa machine accel name rtc vnc spice tpmdev trace
    sandbox icount overcommit msg action fw_cfg`
      .split(/\s+/)
      .map((name) => [name, name]),
  ),
  memory: 'm',
  'smp-opts': 'smp',
  'boot-opts': 'boot',
  acpi: 'acpitable',
};

export interface Reading {
  /** The folder from which relative names are resolved. */
  readonly cwd: string | undefined;
  /** When QEMU had read its files: milliseconds since 1970. */
  readonly readAtMs: number | undefined;
}

/** The command line with the contents of its files. A file stays if it is unknown what QEMU has read in it. */
export function withoutConfigFiles(options: readonly Option[], reading: Reading): Option[] {
  return options.flatMap((option) => {
    if (option.name !== 'readconfig') return [option];
    return readConfig(option.value ?? '', reading) ?? [option];
  });
}

/** The file system's clock may be slightly behind. */
const CLOCK_MS = 100;

function readConfig(name: string, { cwd, readAtMs }: Reading): Option[] | undefined {
  if (readAtMs === undefined || (cwd === undefined && !path.isAbsolute(name))) return undefined;
  try {
    const file = path.resolve(cwd ?? '/', name);
    const found = statSync(file);
    if (!found.isFile() || found.ctimeMs > readAtMs + CLOCK_MS) return undefined;
    return parseConfig(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/** @returns undefined unless every character is understood */
export function parseConfig(text: string): Option[] | undefined {
  const sections: { readonly name: string; readonly properties: Property[] }[] = [];
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const [, section, id] = /^\[([^\s\]"]+)(?: +"([^"]+)")?\]/.exec(line) ?? [];
    const [, key, value] = /^\s*([^\s="]+) = "([^"]*)"/.exec(line) ?? [];
    const name = section === undefined ? undefined : OPTION_OF_SECTION[section];
    if (name !== undefined)
      sections.push({ name, properties: id === undefined ? [] : [{ key: 'id', value: id }] });
    else if (section === undefined && key !== undefined && sections.length > 0)
      sections.at(-1)!.properties.push({ key, value: value! });
    else return undefined;
  }
  return sections.map(({ name, properties }) => optionOf(name, properties));
}
