import path from 'node:path';
import { FORMAT1_FILES, GENERATION_FILES, HOT_PACK_FILE, packFile, packParts } from '../checkpoint/format.js';
import { fileBytesOf, type Manifest } from '../checkpoint/manifest.js';
import { readAhead } from '../native/index.js';
import { MAX_WORKING_SET_BYTES } from '../working-set/codec.js';
import { WORKING_SET_FILE } from '../working-set/file.js';
import { maxPackBytes } from '../working-set/hot-pack.js';
import { MAX_PLAN_BYTES, NEXT_PLAN_FILE } from '../working-set/next-plan.js';
import type { RestoreMode } from '../vms/records.js';

const WHOLE_FILES: readonly string[] = [
  GENERATION_FILES.deviceState,
  GENERATION_FILES.pageChunks,
  FORMAT1_FILES.pageIndex,
  FORMAT1_FILES.extentIndex,
];

/** Starts to read the files that a serving process reads first, each up to its maximum valid size, while it starts. */
export function readGenerationAhead(generationDir: string, manifest: Manifest, mode: RestoreMode): void {
  const read = (file: string, lengthBytes: number, offsetBytes = 0) =>
    void readAhead(path.join(generationDir, file), { offsetBytes, lengthBytes });
  for (const [file, bytes] of Object.entries(fileBytesOf(manifest)))
    if (WHOLE_FILES.includes(file)) read(file, bytes);
  if (manifest.formatVersion === 2)
    for (const pack of manifest.packs) {
      const { recordsOffset } = packParts(pack);
      read(packFile(pack.id), pack.fileBytes - recordsOffset, recordsOffset);
    }
  if (mode !== 'prefetch') return;
  read(WORKING_SET_FILE, MAX_WORKING_SET_BYTES);
  read(NEXT_PLAN_FILE, MAX_PLAN_BYTES);
  read(HOT_PACK_FILE, maxPackBytes(manifest));
}
