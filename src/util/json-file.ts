/** Small state files that are replaced as a whole: a reader sees the old text or the new one, never a mixture. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';

export function writeJsonFile(file: string, value: unknown): void {
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, `${JSON.stringify(value)}\n`, { mode: 0o600 });
  renameSync(temporary, file);
}

/** @returns undefined when the file does not exist or holds no JSON. */
export function readJsonFile(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as unknown;
  } catch {
    return undefined;
  }
}
