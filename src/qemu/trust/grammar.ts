/**
 * The one way of writing an option in which no reading is possible but one: `key=value`, each key once, or JSON. What
 * else QEMU understands (`script=no,noscript`, a second `path=`) is not judged, it is refused.
 */
import { impliedKeyOf, isJson, propertiesOf, type Option, type Property } from '../command-line.js';

/** Where the command line would run. */
export interface Where {
  /** What relative paths are meant from. */
  readonly cwd: string;
  readonly socketFolders: readonly string[];
  /** Whether it has `-snapshot`. */
  readonly discardsWrites: boolean;
}

/** @returns why the option is not harmless */
export type Check = (option: Option, where: Where) => string | undefined;
export type ValueCheck = (value: string, where: Where) => string | undefined;
/** The keys that an option may have, and what each of them may be. */
export type Keys = ReadonlyMap<string, ValueCheck>;

export interface Grammar {
  readonly keys: Keys;
  /** Words that may stand alone: `server`, `nowait`. */
  readonly words?: string;
  /** Keys of lists: they may be there more than once, and JSON and later versions number them (`hostfwd.0.str`). */
  readonly lists?: string;
  /** What the properties together must fulfil. */
  readonly further?: (get: (key: string) => string | undefined, where: Where) => string | undefined;
}

/** A switch, a number, a name of something that an option of its own makes: nothing that could be a file. */
export const word: ValueCheck = (value) => (value.includes('/') ? `${value} is no plain word` : undefined);
export const text: ValueCheck = () => undefined;

export function oneOf(words: string): ValueCheck {
  const known = words.split(' ');
  return (value) => (known.includes(value) ? undefined : `${value} is not known to be harmless`);
}

export function matching(pattern: RegExp): ValueCheck {
  return (value) =>
    pattern.test(value) ? undefined : `"${value}" is not written in the one way that is judged`;
}

export function keys(names: string, check: ValueCheck = word): [string, ValueCheck][] {
  return names
    .trim()
    .split(/\s+/)
    .map((name) => [name, check]);
}

/** An option of properties. */
export function properties({ keys: known, words = '', lists = '', further }: Grammar): Check {
  const mayRepeat = lists.split(' ');
  return (option, where) => {
    if (!isJson(option) && !isCanonical(option, words))
      return 'is not written as key=value, which alone is judged';
    const found = propertiesOf(option);
    const seen = new Set<string>();
    for (const { key, value } of found) {
      const list = key.replace(/\.\d+(\..*)?$/, '');
      const check = known.get(mayRepeat.includes(list) ? list : key);
      if (check === undefined) return `its ${key} is not known to be harmless`;
      if (seen.has(key) && !mayRepeat.includes(key)) return `has ${key} twice`;
      seen.add(key);
      const reason = check(value, where);
      if (reason !== undefined) return reason;
    }
    return further?.((key) => valueOf(found, key), where);
  };
}

function valueOf(found: readonly Property[], key: string): string | undefined {
  return found.find((property) => property.key === key)?.value;
}

const PROPERTY = String.raw`[A-Za-z][\w.-]*=(?:[^,]|,,)*`;

function isCanonical({ name, value = '' }: Option, words: string): boolean {
  const each = words === '' ? PROPERTY : `(?:${PROPERTY}|${words.replaceAll(' ', '|')})`;
  const first = impliedKeyOf(name) === undefined ? each : `(?:[^=,]+|${each})`;
  return new RegExp(`^${first}(?:,${each})*$`).test(value);
}
