/** Small state files that are replaced as a whole: a reader sees the old text or the new one, never a mixture. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import * as v from 'valibot';

/** The sticky bit keeps systemd-tmpfiles from deleting old files in /tmp: the state of a VM that runs for weeks. */
const MODE = 0o1600;

export function writeJsonFile(file: string, value: unknown): void {
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, `${JSON.stringify(value)}\n`, { mode: MODE });
  renameSync(temporary, file);
}

/** @returns undefined when the file does not exist or does not hold what fits `schema`. */
export function readJsonFile<T>(schema: v.GenericSchema<unknown, T>, file: string): T | undefined {
  try {
    return v.parse(schema, JSON.parse(readFileSync(file, 'utf8')));
  } catch {
    return undefined;
  }
}
