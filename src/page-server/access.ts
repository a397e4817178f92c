/**
 * Which client of a page server may do what, by the name in its certificate. The access file has a line for each rule:
 *
 *     # client       rights              checkpoints
 *     backup         read,push           *
 *     web-host       read                web-* db
 *
 * A client without a line is refused. Without an access file, every client with a certificate of the CA may read.
 */
import { readFileSync } from 'node:fs';
import { VmckptError } from '../errors.js';

/** `push` includes what restores learn; `remove` includes pruning. */
export const RIGHTS = ['read', 'push', 'remove'] as const;
export type Right = (typeof RIGHTS)[number];

/** Whether a client may do something with the checkpoints of a name. */
export type Access = (right: Right, name: string) => boolean;

/** Who comes through a unix socket, which only the store's owner can open. It may do everything. */
export const LOCAL_CLIENT = '(local)';
/** Who comes by TCP without a certificate. */
export const PLAIN_CLIENT = '(plain)';

const CLIENT = /^(\(plain\)|[A-Za-z0-9_][A-Za-z0-9._-]{0,63})$/;
const PATTERN = /^[A-Za-z0-9._*-]+$/;

interface Rule {
  readonly client: string;
  readonly rights: readonly Right[];
  readonly patterns: readonly RegExp[];
}

export class AccessRules {
  /** Undefined: every client may read. */
  readonly #rules: readonly Rule[] | undefined;

  private constructor(rules: readonly Rule[] | undefined) {
    this.#rules = rules;
  }

  static readonly readOnly = new AccessRules(undefined);

  /** @throws VmckptError HOST_FILE_MISSING, USAGE with the line that is wrong */
  static read(file: string): AccessRules {
    let text: string;
    try {
      text = readFileSync(file, 'utf8');
    } catch (cause) {
      throw new VmckptError('HOST_FILE_MISSING', `the access file ${file} cannot be read`, { cause });
    }
    return AccessRules.parse(text, file);
  }

  /** @param label of the file, for messages. @throws VmckptError USAGE */
  static parse(text: string, label: string): AccessRules {
    const rules = text.split('\n').flatMap((line, index) => {
      const [client, ...rest] = line.replace(/#.*/, '').trim().split(/\s+/);
      return client === '' ? [] : [parseRule(client!, rest, `${label}, line ${index + 1}`)];
    });
    return new AccessRules(rules);
  }

  /** @returns undefined for a client that is refused */
  of(client: string): Access | undefined {
    if (client === LOCAL_CLIENT) return () => true;
    if (!CLIENT.test(client)) return undefined;
    if (this.#rules === undefined) return (right) => right === 'read';
    const rules = this.#rules.filter((rule) => rule.client === client);
    if (rules.length === 0) return undefined;
    return (right, name) =>
      rules.some(
        ({ rights, patterns }) => rights.includes(right) && patterns.some((pattern) => pattern.test(name)),
      );
  }
}

/** @throws VmckptError NOT_PERMITTED */
export function requireAccess(access: Access, right: Right, name: string): void {
  if (access(right, name)) return;
  throw new VmckptError('NOT_PERMITTED', `this client may not ${right} "${name}"`, {
    hint: 'The access file of the page server decides (vmckpt serve --access).',
  });
}

function parseRule(client: string, [list = '', ...patterns]: readonly string[], place: string): Rule {
  const rights = list.split(',');
  const wrong = rights.find((right) => !RIGHTS.includes(right as Right));
  const wrongPattern = patterns.find((pattern) => !PATTERN.test(pattern));
  const fault = !CLIENT.test(client)
    ? `"${client}" is no name of a client`
    : wrong !== undefined
      ? `"${wrong}" is no right, expected ${RIGHTS.join(', ')}`
      : patterns.length === 0
        ? 'no checkpoints are named'
        : wrongPattern && `"${wrongPattern}" is no name of checkpoints`;
  if (fault !== undefined)
    throw new VmckptError('USAGE', `${place}: ${fault}`, {
      hint: 'A line has a client, its rights, and names of checkpoints: backup read,push web-*',
    });
  return { client, rights: rights as Right[], patterns: patterns.map(globOf) };
}

/** `*` stands for any characters. */
function globOf(pattern: string): RegExp {
  return new RegExp(`^${pattern.replaceAll('.', '\\.').replaceAll('*', '.*')}$`);
}
