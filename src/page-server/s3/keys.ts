/**
 * Where a store's parts lie in its bucket. A generation is there as soon as its manifest is; every other object is of one
 * content only, because its key has the id of the generation or of the pack.
 */
import { GENERATION_FILES } from '../../checkpoint/format.js';
import { isName, parseGeneration } from '../../store/reference.js';
import type { PushedGeneration } from '../contracts.js';

export type Numbered = Omit<PushedGeneration, 'id'>;

export const CHECKPOINTS = 'checkpoints/';
export const PACKS = 'packs/';
/** The manifests of generations that were removed, for as long as some may still be reading them. */
export const REMOVED = 'removed/';
/** Leases of those who push or remove a generation: `writing/NAME@NUMBER/1`. */
export const WRITING = 'writing/';
/** The lease of who prunes: `pruning/1`. */
export const PRUNING = 'pruning';

const MANIFEST = /^checkpoints\/([^/]+)\/([^/]+)\/manifest\.json$/;
const FILE = /^checkpoints\/([^/]+)\/([^/]+)\/([0-9a-f]{32})\/[^/]+$/;
const REMOVED_MANIFEST = /^removed\/([^/]+)@([^/]+)-([0-9a-f]{32})$/;

export function generationsOf(name: string): string {
  return `${CHECKPOINTS}${name}/`;
}

export function manifestKey({ name, number }: Numbered): string {
  return `${generationsOf(name)}${number}/${GENERATION_FILES.manifest}`;
}

/** All but its manifest. */
export function filesOf({ name, number, id }: PushedGeneration): string {
  return `${generationsOf(name)}${number}/${id}/`;
}

export function packKey(packId: string): string {
  return `${PACKS}${packId}`;
}

export function removedKey({ name, number, id }: PushedGeneration): string {
  return `${REMOVED}${name}@${number}-${id}`;
}

export function writingKey({ name, number }: Numbered): string {
  return `${WRITING}${name}@${number}`;
}

/** The generation whose manifest this is. */
export function parseManifestKey(key: string): Numbered | undefined {
  return numbered(MANIFEST.exec(key));
}

/** The generation, there or not, whose file this is. */
export function parseFileKey(key: string): PushedGeneration | undefined {
  return identified(FILE.exec(key));
}

export function parseRemovedKey(key: string): PushedGeneration | undefined {
  return identified(REMOVED_MANIFEST.exec(key));
}

function identified(found: RegExpExecArray | null): PushedGeneration | undefined {
  const generation = numbered(found);
  return generation === undefined ? undefined : { ...generation, id: found![3]! };
}

function numbered(found: RegExpExecArray | null): Numbered | undefined {
  const [, name = '', digits = ''] = found ?? [];
  const number = parseGeneration(digits);
  return isName(name) && number !== undefined ? { name, number } : undefined;
}
