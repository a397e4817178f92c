/**
 * The one way of writing an option that can be read in only one way: `key=value`, each key once, or JSON. Anything else
 * that QEMU understands (`script=no,noscript`, a second `path=`) is refused without further checks.
 */
import { impliedKeyOf, isJson, propertiesOf, type Option, type Property } from '../command-line.js';

/** The surroundings in which the command line would run. */
export interface Where {
  /** The folder from which relative paths are resolved. */
  readonly cwd: string;
  readonly socketFolders: readonly string[];
  /** Whether the command line has `-snapshot`. */
  readonly discardsWrites: boolean;
}

/** @returns why the option is not harmless */
export type Check = (option: Option, where: Where) => string | undefined;
export type ValueCheck = (value: string, where: Where) => string | undefined;
/** The keys that an option may have, with a check for each value. */
export type Keys = ReadonlyMap<string, ValueCheck>;

export interface Grammar {
  readonly keys: Keys;
  /** Words that may be used without a value: `server`, `nowait`. */
  readonly words?: string;
  /** Keys of lists. They may occur more than once, and JSON and later versions number them (`hostfwd.0.str`). */
  readonly lists?: string;
  /** A condition on all properties together. */
  readonly further?: (get: (key: string) => string | undefined, where: Where) => string | undefined;
}

/** A switch, a number, or a name that another option defines: nothing that could be a file. */
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

/** Checks an option that consists of properties. */
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
