import path from 'node:path';
import { GENERATION_FILES, HOT_PACK_FILE } from '../checkpoint/format.js';
import { fileBytesOf, type Manifest } from '../checkpoint/manifest.js';
import { readAhead } from '../native/index.js';
import { MAX_WORKING_SET_BYTES } from '../working-set/codec.js';
import { WORKING_SET_FILE } from '../working-set/file.js';
import { maxPackBytes } from '../working-set/hot-pack.js';
import { MAX_PLAN_BYTES, NEXT_PLAN_FILE } from '../working-set/next-plan.js';
import type { RestoreMode } from '../vms/records.js';

const { pageIndex, extentIndex, deviceState } = GENERATION_FILES;

/** Starts to read the files that a serving process reads first, each up to its maximum valid size, while it starts. */
export function readGenerationAhead(generationDir: string, manifest: Manifest, mode: RestoreMode): void {
  const bytesOf = fileBytesOf(manifest);
  const predicted: [file: string, maxBytes: number][] = [
    [WORKING_SET_FILE, MAX_WORKING_SET_BYTES],
    [NEXT_PLAN_FILE, MAX_PLAN_BYTES],
    [HOT_PACK_FILE, maxPackBytes(manifest)],
  ];
  for (const file of [pageIndex, extentIndex, deviceState])
    void readAhead(path.join(generationDir, file), bytesOf[file]!);
  if (mode === 'prefetch')
    for (const [file, maxBytes] of predicted) void readAhead(path.join(generationDir, file), maxBytes);
}
