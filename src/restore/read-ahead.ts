import path from 'node:path';
import { GENERATION_FILES, HOT_PACK_FILE } from '../checkpoint/format.js';
import { readAhead } from '../native/index.js';
import { WORKING_SET_FILE } from '../working-set/file.js';
import { NEXT_PLAN_FILE } from '../working-set/next-plan.js';
import type { RestoreMode } from '../vms/records.js';

const { pageIndex, extentIndex, deviceState } = GENERATION_FILES;

/** Begins to read what a serving process reads first, while that is being started. */
export function readGenerationAhead(generationDir: string, mode: RestoreMode): void {
  const predicted = mode === 'prefetch' ? [WORKING_SET_FILE, NEXT_PLAN_FILE, HOT_PACK_FILE] : [];
  for (const file of [pageIndex, extentIndex, deviceState, ...predicted])
    void readAhead(path.join(generationDir, file));
}
