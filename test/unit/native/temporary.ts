/** What the tests of this folder share: a private directory, and waiting for a process's output. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { onTestFinished } from 'vitest';

/** A directory of the running test's own, removed after it. */
export function temporaryDirectory(): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'vmckpt-native-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  return directory;
}

/** Resolves once `text` has been printed; rejects when the output ends without it. */
export function printed(output: Readable, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = '';
    const onData = (chunk: Buffer) => {
      seen += chunk.toString();
      if (!seen.includes(text)) return;
      output.off('data', onData).off('end', onEnd);
      resolve();
    };
    const onEnd = () => reject(new Error(`the output ended without ${JSON.stringify(text)}: ${seen}`));
    output.on('data', onData).on('end', onEnd);
  });
}
