/** Removes older generations after a save. The new one is on the disk, so what fails here is only told. */
import type { RetentionPolicy } from '../store/retention.js';
import { prune, type PruneReport } from '../vms/prune.js';

interface PruneOlderOptions {
  readonly storeDir: string;
  readonly name: string;
  readonly keep: RetentionPolicy;
  readonly onMessage: (text: string) => void;
}

/** @returns null when a message says why all of them stay */
export async function pruneOlder(options: PruneOlderOptions): Promise<PruneReport | null> {
  const { storeDir, name, keep, onMessage } = options;
  try {
    const report = await prune({ storeDir, name, policy: keep });
    for (const { generation, neededBy } of report.kept)
      if (neededBy !== null) onMessage(`${name}@${generation} stays: ${neededBy} needs it.`);
    for (const { generation, message } of report.failed)
      onMessage(`${name}@${generation} stays: ${message}.`);
    return report;
  } catch (error) {
    onMessage(`The older generations stay: ${error instanceof Error ? error.message : String(error)}.`);
    return null;
  }
}
