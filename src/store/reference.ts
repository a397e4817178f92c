/** Names of checkpoints, and references to generations: `web`, `web@3`. */
import { VmckptError } from '../errors.js';

const MAX_NAME_LENGTH = 128;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;
const GENERATION = /^[1-9][0-9]{0,8}$/;
/** A name within this distance may be the intended one. */
const NEAR_EDITS = 2;
const MAX_NEAR = 3;

export interface Reference {
  readonly name: string;
  /** Undefined: the newest one. */
  readonly generation: number | undefined;
}

/** A name is also a directory's name, so it must not have a meaning for a shell or a file system. */
export function isName(text: string): boolean {
  return text.length <= MAX_NAME_LENGTH && NAME.test(text);
}

/** @throws VmckptError BAD_NAME */
export function requireName(text: string, what: 'a checkpoint' | 'a VM'): void {
  if (isName(text)) return;
  throw new VmckptError('BAD_NAME', `${JSON.stringify(text)} cannot be the name of ${what}`, {
    hint: `Names have 1 to ${MAX_NAME_LENGTH} letters, digits, ".", "_" and "-", and do not begin with "." or "-".`,
  });
}

/** @returns undefined when the text does not number a generation */
export function parseGeneration(text: string): number | undefined {
  return GENERATION.test(text) ? Number(text) : undefined;
}

/** @throws VmckptError BAD_NAME */
export function parseReference(text: string): Reference {
  const at = text.lastIndexOf('@');
  const name = at < 0 ? text : text.slice(0, at);
  requireName(name, 'a checkpoint');
  if (at < 0) return { name, generation: undefined };
  const generation = parseGeneration(text.slice(at + 1));
  if (generation !== undefined) return { name, generation };
  throw new VmckptError(
    'BAD_NAME',
    `${JSON.stringify(text.slice(at + 1))} is not the number of a generation of "${name}"`,
    { hint: `For example ${name}@1; vmckpt list shows all generations.` },
  );
}

/** The names that a user who typed `wanted` may have meant: the nearest first, and only a few. */
export function nearNames(wanted: string, names: readonly string[]): string[] {
  return names
    .map((name) => ({ name, edits: editDistance(wanted, name) }))
    .filter(({ name, edits }) => name.startsWith(wanted) || edits <= NEAR_EDITS)
    .sort((a, b) => a.edits - b.edits)
    .slice(0, MAX_NEAR)
    .map(({ name }) => name);
}

/** Insertions, deletions and replacements that turn one text into the other. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++)
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (a[i] === b[j] ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}
