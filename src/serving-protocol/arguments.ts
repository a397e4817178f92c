/** The arguments of a serving process: NAME GENERATION [WISHES] [--successor]. A keeper adds the last one. */
import { generationRefSchema, type GenerationRef } from '../store/generation-ref.js';
import { parse } from '../util/schema.js';
import type { PrefetchWishes } from '../working-set/plan.js';
import { SUCCESSOR_FLAG } from './descriptors.js';

export interface ServerArguments {
  /** The VM's. */
  readonly name: string;
  readonly generation: GenerationRef;
  /** Undefined: nothing is predicted. */
  readonly wishes?: PrefetchWishes | undefined;
  /** Takes the place of a process that died. */
  readonly isSuccessor?: boolean;
}

export function toArguments({ name, generation, wishes, isSuccessor }: ServerArguments): string[] {
  return [
    name,
    JSON.stringify(generation),
    ...(wishes === undefined ? [] : [JSON.stringify(wishes)]),
    ...(isSuccessor === true ? [SUCCESSOR_FLAG] : []),
  ];
}

export function fromArguments(args: readonly string[]): ServerArguments {
  const [name = '', ref = '', ...rest] = args;
  const generation = parse(generationRefSchema, JSON.parse(ref));
  const wishes = rest[0]?.startsWith('{') ? (JSON.parse(rest[0]) as PrefetchWishes) : undefined;
  return { name, generation, wishes, isSuccessor: rest.includes(SUCCESSOR_FLAG) };
}
