/** Options of the verbs that have to do with stores elsewhere. */
import path from 'node:path';
import { InvalidArgumentError, type Command } from 'commander';
import { cacheDir } from '../util/user-folders.js';
import { numberIn, option } from './verb.js';

const UNITS: Readonly<Record<string, number>> = { M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };
const SIZE = /^(\d+(?:\.\d+)?)([MGT])$/;
/** A year. */
const MAX_TIMEOUT_S = 365 * 24 * 3600;

export interface CacheFlags {
  readonly cache?: string;
  readonly cacheSize?: number;
}

export interface TimeoutFlags {
  readonly sourceTimeout?: number;
}

export function addCacheOptions(command: Command): Command {
  return command
    .addOption(
      option('--cache <dir>', 'where generations from elsewhere arrive (default: $XDG_CACHE_HOME/vmckpt)'),
    )
    .addOption(
      option(
        '--cache-size <size>',
        'most room that the cache takes, such as 20G; generations that are not in use go (default: half of what is free)',
      ).argParser(parseSize),
    );
}

/** @param action what is done then, as the start of a sentence */
export function addSourceTimeout(command: Command, action: string): Command {
  return command.addOption(
    option(
      '--source-timeout <seconds>',
      `${action} when the other store was away for so long (default: wait for it)`,
    ).argParser((text) => numberIn(text, { min: 0, max: MAX_TIMEOUT_S })),
  );
}

export function cacheOf({ cache, cacheSize }: CacheFlags): {
  cacheDir: string;
  cacheBytes: number | undefined;
} {
  return { cacheDir: path.resolve(cache ?? cacheDir()), cacheBytes: cacheSize };
}

export function timeoutMsOf({ sourceTimeout }: TimeoutFlags): number | undefined {
  return sourceTimeout === undefined ? undefined : sourceTimeout * 1000;
}

/** Stores with commas between them. @throws InvalidArgumentError */
export function parseSources(text: string): string[] {
  const sources = text.split(',');
  if (sources.includes('')) throw new InvalidArgumentError('expected stores with commas between them.');
  return sources;
}

/** In bytes. @throws InvalidArgumentError */
function parseSize(text: string): number {
  const [, count, unit] = SIZE.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError('expected a size such as 500M, 20G or 1T.');
  return Math.floor(Number(count) * UNITS[unit!]!);
}
