/** Small state files that are replaced as a whole: a reader sees the old text or the new one, never a mixture. */
import { renameSync, writeFileSync } from 'node:fs';
import * as v from 'valibot';
import { readRegular } from './regular-file.js';

/** Far more than any state file has. */
const MAX_BYTES = 16 << 20;

/** The sticky bit keeps systemd-tmpfiles from deleting old files in /tmp: a VM may run for weeks. */
const MODE = 0o1600;

export function writeJsonFile(file: string, value: unknown): void {
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, `${JSON.stringify(value)}\n`, { mode: MODE });
  renameSync(temporary, file);
}

/** @returns undefined when the file does not exist or does not match `schema` */
export function readJsonFile<T>(schema: v.GenericSchema<unknown, T>, file: string): T | undefined {
  try {
    return parseJson(schema, readRegular(file, MAX_BYTES)?.toString());
  } catch {
    return undefined;
  }
}

/** @returns undefined when the text is missing or does not match `schema` */
export function parseJson<T>(schema: v.GenericSchema<unknown, T>, text: string | undefined): T | undefined {
  try {
    return v.parse(schema, JSON.parse(text ?? ''));
  } catch {
    return undefined;
  }
}
