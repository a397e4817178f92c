/** The arguments of a serving process: NAME GENERATION [WISHES] [--successor]. The keeper adds the last one. */
import { generationRefSchema, type GenerationRef } from '../store/generation-ref.js';
import { parse } from '../util/schema.js';
import type { PrefetchWishes } from '../working-set/plan.js';
import { SUCCESSOR_FLAG } from './descriptors.js';

export interface ServerArguments {
  /** The VM's name. */
  readonly name: string;
  readonly generation: GenerationRef;
  /** Undefined: no prediction. */
  readonly wishes?: PrefetchWishes | undefined;
  /** Replaces a process that died. */
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
