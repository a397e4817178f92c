/** The user as whom QEMU is started: the one as whom it ran when it was saved. */
import { accessSync, constants, statSync } from 'node:fs';
import path from 'node:path';
import type { ProcessContext } from '../util/process-schema.js';
import { propertyOf, type Option } from './command-line.js';

export type User = Pick<ProcessContext, 'uid' | 'gid' | 'groups'>;

export interface Program {
  readonly binary: string;
  readonly args: readonly string[];
}

const PLACES_OF_SETPRIV = ['/usr/bin/setpriv', '/bin/setpriv'] as const;
const MAY_PASS_AS = { owner: 0o100, group: 0o010, others: 0o001 } as const;

/** The user as whom QEMU runs, if it is not this process's. */
export function otherUser(saved: User | undefined): User | undefined {
  return saved === undefined || saved.uid === process.geteuid?.() ? undefined : saved;
}

/** Whether QEMU changes its user by itself at its start. */
export function changesUser(options: readonly Option[]): boolean {
  return options.some(
    (option) =>
      option.name === 'runas' || (option.name === 'run-with' && propertyOf(option, 'user') !== undefined),
  );
}

/** @param runtimeFolder the folder of its sockets. @returns why QEMU cannot be started as that user, as a clause */
export function whyNotStartedAs(user: User, runtimeFolder: string): string | undefined {
  const own = process.geteuid?.();
  if (own !== 0) return `QEMU ran as the user ${user.uid}, and the user ${own} cannot start it as that user`;
  if (setpriv() === undefined)
    return `QEMU ran as the user ${user.uid}, and setpriv, which could start it as that user, is not installed`;
  const closed = foldersAbove(runtimeFolder).find((folder) => !mayPass(user, folder));
  return closed === undefined
    ? undefined
    : `QEMU ran as the user ${user.uid}, who may not enter ${closed}, and its sockets would lie below`;
}

/** The same program, started as that user, with the same process id. */
export function startedAs({ binary, args }: Program, user: User): Program {
  const groups = user.groups.length === 0 ? '--clear-groups' : `--groups=${user.groups.join(',')}`;
  const ids = [`--reuid=${user.uid}`, `--regid=${user.gid}`, groups];
  return { binary: setpriv()!, args: [...ids, '--', binary, ...args] };
}

function setpriv(): string | undefined {
  return PLACES_OF_SETPRIV.find((place) => {
    try {
      accessSync(place, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function foldersAbove(folder: string): string[] {
  const above = path.dirname(folder);
  return above === folder ? [] : [...foldersAbove(above), above];
}

function mayPass({ uid, gid, groups }: User, folder: string): boolean {
  const found = statSync(folder, { throwIfNoEntry: false });
  if (found === undefined) return true; // it does not exist yet
  const who = found.uid === uid ? 'owner' : [gid, ...groups].includes(found.gid) ? 'group' : 'others';
  return (found.mode & MAY_PASS_AS[who]) !== 0;
}
