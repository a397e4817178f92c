/** The arguments of a serving process: NAME GENERATION_DIR [WISHES] [--successor]. A keeper adds the last one. */
import type { PrefetchWishes } from '../working-set/plan.js';
import { SUCCESSOR_FLAG } from './descriptors.js';

export interface ServerArguments {
  /** The VM's. */
  readonly name: string;
  readonly generationDir: string;
  /** Undefined: nothing is predicted. */
  readonly wishes?: PrefetchWishes | undefined;
  /** Takes the place of a process that died. */
  readonly isSuccessor?: boolean;
}

export function toArguments({ name, generationDir, wishes, isSuccessor }: ServerArguments): string[] {
  return [
    name,
    generationDir,
    ...(wishes === undefined ? [] : [JSON.stringify(wishes)]),
    ...(isSuccessor === true ? [SUCCESSOR_FLAG] : []),
  ];
}

export function fromArguments(args: readonly string[]): ServerArguments {
  const [name = '', generationDir = '', ...rest] = args;
  const wishes = rest[0]?.startsWith('{') ? (JSON.parse(rest[0]) as PrefetchWishes) : undefined;
  return { name, generationDir, wishes, isSuccessor: rest.includes(SUCCESSOR_FLAG) };
}
