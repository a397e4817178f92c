/**
 * Everything that must hold before a saved VM can be started here, in one table. A restore refuses what does not
 * hold. A save checks the same table while the VM still lives, so that problems are found in time.
 */
import { statSync } from 'node:fs';
import path from 'node:path';
import type { Manifest } from '../checkpoint/manifest.js';
import type { ErrorCode } from '../errors.js';
import type { Option } from '../qemu/command-line.js';
import { namedFiles } from '../qemu/named-files.js';
import { MAX_SOCKET_PATH_BYTES } from '../qemu/own-identity.js';
import { bootId, differingPlaces, hasInterface, placesOf } from '../qemu/process-context.js';
import { whyNotStartedAs, type User } from '../qemu/start-as.js';
import { unrepeatableOptions } from '../qemu/unrepeatable.js';
import { asOwner, isRoot } from '../util/rights.js';
import { runtimeFolderOf } from '../vms/places.js';

const REPLACEMENT_CHARACTER = '\ufffd';

export interface Problem {
  readonly code: ErrorCode;
  /** Clauses of a sentence that name the parts. */
  readonly message: string;
  readonly hint: string;
}

export interface Requisites {
  readonly manifest: Pick<Manifest, 'process' | 'workingDirectory' | 'changedParts'>;
  /** The user as whom QEMU is to run, if not this process's. */
  readonly user: User | undefined;
  /** The user gave this command line: it is used as it is. */
  readonly isOwnCommandLine: boolean;
  /** Runs in an isolated network, with nothing of the original. */
  readonly isTrial: boolean;
  /** The saved options, without those that belong to one run. */
  readonly saved: readonly Option[];
  /** The options that QEMU will get. */
  readonly rewritten: readonly Option[];
  /** The folder from which relative names are resolved. */
  readonly cwd: string | undefined;
  /** The VM's folder and that of its sockets; the restore creates both. */
  readonly directory: string;
  readonly socketFolder: string;
}

type Requirement = (requisites: Requisites) => Problem | undefined;

const OWN_COMMAND_LINE = 'vmckpt restore NAME -- QEMU ARGS…';

/** In the order in which they are checked. */
export const REQUIREMENTS = {
  'readable names': requireReadableNames,
  'nothing of the old process': requireNothingInherited,
  'the parts it was started with': requireParts,
  'the same place': requirePlace,
  'a user it may be': requireUser,
  'its folder': requireFolder,
  'its images': requireImages,
  'its files': requireFiles,
  'its tap interfaces': requireTaps,
  'socket paths': requireSocketPaths,
} as const satisfies Record<string, Requirement>;

/** If one of these is not met, names mean nothing here, and the later checks are skipped. */
const DECIDING: ReadonlySet<string> = new Set<keyof typeof REQUIREMENTS>([
  'readable names',
  'the same place',
]);

/** @returns in the order of the table */
export function unmetRequirements(requisites: Requisites): Problem[] {
  const problems: Problem[] = [];
  for (const [name, requirement] of Object.entries(REQUIREMENTS)) {
    const problem = requirement(requisites);
    if (problem === undefined) continue;
    problems.push(problem);
    if (DECIDING.has(name)) break;
  }
  return problems;
}

/** A manifest is UTF-8. Bytes of the command line that were not UTF-8 were read as replacement characters. */
function requireReadableNames({ saved, cwd = '' }: Requisites): Problem | undefined {
  const broken = [...saved.map(({ name, value = '' }) => `-${name} ${value}`), `the folder ${cwd}`].filter(
    (text) => text.includes(REPLACEMENT_CHARACTER),
  );
  if (broken.length === 0) return undefined;
  return {
    code: 'COMMAND_LINE_UNSUPPORTED',
    message: `${broken.join('; ')}: names that are not UTF-8 cannot be kept`,
    hint: `Rename it before the VM is started. Or give a command line of your own: ${OWN_COMMAND_LINE}`,
  };
}

function requireNothingInherited({ saved }: Requisites): Problem | undefined {
  const found = unrepeatableOptions(saved);
  if (found.length === 0) return undefined;
  return {
    code: 'COMMAND_LINE_UNSUPPORTED',
    message: `${found.join('; ')}: it cannot be repeated for a restore`,
    hint: `Give a complete command line that does without it: ${OWN_COMMAND_LINE}`,
  };
}

/** The saved machine differs from what its command line makes. */
function requireParts({ manifest, isOwnCommandLine }: Requisites): Problem | undefined {
  const { changedParts = [] } = manifest;
  if (changedParts.length === 0 || isOwnCommandLine) return undefined;
  return {
    code: 'COMMAND_LINE_UNSUPPORTED',
    message: `${changedParts.join('; ')}: the command line of QEMU does not show it`,
    hint: `Put the VM back to how it was started (a device that is plugged in again counts as another one), or restart it with a command line that shows it. Or give a command line of your own: ${OWN_COMMAND_LINE}`,
  };
}

/** After a restart of the host, namespaces have other ids; then only what the saver saw counts. */
function requirePlace({ manifest, isOwnCommandLine, isTrial }: Requisites): Problem | undefined {
  const { process: saved } = manifest;
  if (saved === undefined || isOwnCommandLine || isTrial) return undefined;
  const isSameBoot = saved.bootId === bootId();
  const differing = isSameBoot ? differingPlaces(saved.places, placesOf('self')) : saved.elsewhere;
  if (differing.length === 0) return undefined;
  return {
    code: 'PLACE_DIFFERS',
    message: `QEMU ran in another ${differing.join(' and another ')} than this vmckpt, and the names in its command line mean something else here`,
    hint: `Save and restore it with a vmckpt that runs where QEMU ran (nsenter --target PID --all, or inside the container). Or give a command line of your own: ${OWN_COMMAND_LINE}`,
  };
}

function requireUser({ user, directory }: Requisites): Problem | undefined {
  const why = user && whyNotStartedAs(user, runtimeFolderOf(directory));
  if (user === undefined || why === undefined) return undefined;
  return {
    code: 'NOT_PERMITTED',
    message: why,
    hint: isRoot()
      ? 'Set VMCKPT_RUNTIME_DIR to a folder that this user may enter.'
      : `${asOwner(`the user ${user.uid}`)} To run it as yourself, pass --trust-command-line.`,
  };
}

function requireFolder({ manifest, saved, cwd, isOwnCommandLine }: Requisites): Problem | undefined {
  if (isOwnCommandLine || saved.length === 0) return undefined;
  const relative = namedFiles(saved).find(({ name }) => !path.isAbsolute(name));
  if (cwd === undefined && relative !== undefined && manifest.process !== undefined)
    return {
      code: 'COMMAND_LINE_UNSUPPORTED',
      message: `the folder that QEMU was started in is not known, and ${relative.option} names something in it`,
      hint: `QEMU leaves its folder with -daemonize, and none of the files that it has open shows which one it was. Start it with absolute paths. Or give a command line of your own: ${OWN_COMMAND_LINE}`,
    };
  if (cwd === undefined || isDirectory(cwd)) return undefined;
  return {
    code: 'HOST_FILE_MISSING',
    message: `the folder that QEMU ran in, ${cwd}, does not exist`,
    hint: `Create it, or give a command line with absolute paths: ${OWN_COMMAND_LINE}`,
  };
}

/** A file that has replaced an image is another disk. */
function requireImages({ manifest, isOwnCommandLine }: Requisites): Problem | undefined {
  const lost = manifest.process?.lostImages ?? [];
  if (lost.length === 0 || isOwnCommandLine) return undefined;
  return {
    code: 'HOST_FILE_MISSING',
    message: `the disk image ${lost.join(', ')} was deleted or replaced while the VM ran`,
    hint: `The VM still uses the deleted file: copy it out of /proc/PID/fd before QEMU ends, and name the copy in a command line of your own: ${OWN_COMMAND_LINE}`,
  };
}

function requireFiles(requisites: Requisites): Problem | undefined {
  const { rewritten, cwd, isOwnCommandLine, directory, socketFolder } = requisites;
  if (isOwnCommandLine || (cwd !== undefined && !isDirectory(cwd))) return undefined;
  const isOurs = (file: string) => [directory, socketFolder].some((folder) => file.startsWith(`${folder}/`));
  const files = namedFiles(rewritten);
  // QEMU creates this socket before it connects to it.
  const isOwnPeer = (name: string) => files.some((file) => file.use === 'listen' && file.name === name);
  const missing = files.flatMap(({ option, name, or, use }) => {
    const file = path.resolve(cwd ?? '/', name);
    if ((cwd === undefined && !path.isAbsolute(name)) || isOurs(file)) return [];
    if (use === 'connect' && isOwnPeer(name)) return [];
    const others = or === undefined ? [] : [path.resolve(cwd ?? '/', or)];
    if (use === 'read' || use === 'connect')
      return [file, ...others].some(exists) ? [] : [`${option}: ${file} does not exist`];
    const folder = path.dirname(file);
    return isDirectory(folder) ? [] : [`${option}: the folder ${folder} does not exist`];
  });
  if (missing.length === 0) return undefined;
  return {
    code: 'HOST_FILE_MISSING',
    message: missing.join('; '),
    hint: `Put it back, or give a command line of your own: ${OWN_COMMAND_LINE}`,
  };
}

/** QEMU as root would create an interface that is connected to nothing. */
function requireTaps({ manifest, isOwnCommandLine, isTrial }: Requisites): Problem | undefined {
  if (isOwnCommandLine || isTrial) return undefined;
  const gone = (manifest.process?.taps ?? []).filter(
    ({ name, persistent }) => persistent && hasInterface(name) === false,
  );
  const [first] = gone;
  if (first === undefined) return undefined;
  return {
    code: 'PLACE_DIFFERS',
    message: `the tap interface ${gone.map(({ name }) => name).join(', ')} does not exist any more`,
    hint: `Make it again as it was, with its bridge and addresses: ip tuntap add dev ${first.name} mode tap. Or give a command line of your own: ${OWN_COMMAND_LINE}`,
  };
}

function requireSocketPaths({ rewritten }: Requisites): Problem | undefined {
  const tooLong = namedFiles(rewritten).filter(
    ({ name, use }) => use === 'listen' && Buffer.byteLength(name) > MAX_SOCKET_PATH_BYTES,
  );
  if (tooLong.length === 0) return undefined;
  const names = tooLong.map(({ name }) => name).join(', ');
  return {
    code: 'PATH_TOO_LONG',
    message: `a unix socket's path has at most ${MAX_SOCKET_PATH_BYTES} bytes, and ${names} has more`,
    hint: 'Set VMCKPT_RUNTIME_DIR to a folder with a shorter name.',
  };
}

function exists(file: string): boolean {
  try {
    return statSync(file, { throwIfNoEntry: false }) !== undefined;
  } catch {
    // The file may exist. QEMU, which may have other rights, will find out.
    return true;
  }
}

function isDirectory(file: string): boolean {
  try {
    return statSync(file, { throwIfNoEntry: false })?.isDirectory() ?? false;
  } catch {
    return true;
  }
}
