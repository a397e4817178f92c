/** The files of a generation that have other names in each: packs. */
import path from 'node:path';
import { GENERATION_FILES, packFile } from '../../src/checkpoint/format.js';
import { fileBytesOf, readManifest, type Format2Manifest } from '../../src/checkpoint/manifest.js';

/** The manifest of a generation of the newest format. */
export function format2Manifest(dir: string): Format2Manifest {
  const manifest = readManifest(dir);
  if (manifest.formatVersion !== 2) throw new Error(`format 2 expected, found ${manifest.formatVersion}`);
  return manifest;
}

/** The names of all files of a generation, the manifest's first. */
export function coreFiles(dir: string): string[] {
  return [GENERATION_FILES.manifest, ...Object.keys(fileBytesOf(readManifest(dir)))];
}

/** The path of the pack that the generation in `dir` has written itself: its last one. */
export function ownPack(dir: string): string {
  return path.join(dir, packFile(format2Manifest(dir).packs.at(-1)!.id));
}
