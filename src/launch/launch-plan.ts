/**
 * Makes the command line of the new QEMU from a manifest and the user's options. Changes nothing, so a save can
 * rehearse it.
 */
import path from 'node:path';
import type { Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { parseCommandLine, type Option } from '../qemu/command-line.js';
import { agentSocketOf } from '../qemu/guest-agent.js';
import { mapMainMemory, withoutMappedMemory, type MappedMemory } from '../qemu/mapped-memory.js';
import { sharedNetworks } from '../qemu/networks.js';
import { giveIdentity, type Identity } from '../qemu/own-identity.js';
import { hasInterface, tapNames } from '../qemu/process-context.js';
import type { Moved } from '../qemu/relocation.js';
import { rewriteForRestore } from '../qemu/restore-command-line.js';
import { changesUser, otherUser, type User } from '../qemu/start-as.js';
import { untrustedOptions, type TrustOptions } from '../qemu/trust.js';
import { findQemuBinary } from '../qemu/launch.js';
import type { SealVerdict } from '../store/seal.js';
import { isRoot } from '../util/rights.js';
import { aftercareNotes } from '../aftercare/order.js';
import type { Aftercare } from '../aftercare/order.js';
import { unmetRequirements, type Problem, type Requisites } from './requirements.js';
import { socketFolderOf } from '../vms/places.js';

export interface LaunchWishes {
  readonly run: boolean;
  readonly qemuBinary: string | undefined;
  readonly qemuArgs: readonly string[] | undefined;
  readonly trustCommandLine: boolean;
  /** Default: `original`, which takes the place of the saved VM. */
  readonly identity?: Identity | undefined;
}

/** What a launch depends on. */
export type SavedVm = Pick<
  Manifest,
  | 'name'
  | 'runState'
  | 'vmState'
  | 'qemu'
  | 'machine'
  | 'commandLine'
  | 'changedParts'
  | 'workingDirectory'
  | 'process'
>;

export interface LaunchSubject {
  readonly manifest: SavedVm;
  /** Whether this user's vmckpt wrote the manifest. */
  readonly judgeSeal: () => SealVerdict;
  /** The VM's folder; it may not exist yet. */
  readonly directory: string;
  /** The file that QEMU maps as main memory. */
  readonly memory?: MappedMemory | undefined;
}

export interface LaunchPlan {
  readonly binary: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** The user who starts QEMU, if not this process's. */
  readonly user?: User;
  /** The user as whom QEMU will run. */
  readonly socketOwner?: User;
  /** The folder for the sockets that a restore adds. */
  readonly socketFolder: string;
  /** Whether the VM runs once it is restored. */
  readonly runs: boolean;
  /** The absolute path of the socket to report to the user. */
  readonly qmpSocket: string;
  readonly consoleSocket: string | undefined;
  /** What is in a different place than in the saved command line. */
  readonly moved: readonly Moved[];
  /** Whether QEMU puts other files into the folder of the sockets. */
  readonly needsOwnFolder: boolean;
  readonly aftercare: Aftercare;
  readonly notes: readonly string[];
}

/**
 * @throws VmckptError COMMAND_LINE_UNTRUSTED, COMMAND_LINE_UNSUPPORTED, PLACE_DIFFERS, NOT_PERMITTED, HOST_FILE_MISSING,
 * PATH_TOO_LONG, MAP_REFUSED, DISKS_WRITABLE, COLLISION, QEMU_NOT_FOUND
 */
export async function planLaunch(subject: LaunchSubject, wishes: LaunchWishes): Promise<LaunchPlan> {
  const { manifest, directory, memory } = subject;
  const { identity = 'original' } = wishes;
  const argv = commandLineOf(subject, wishes);
  const runs = manifest.runState === 'running' || wishes.run;
  const isTrial = identity === 'trial';
  const isTrusted = wishes.qemuArgs !== undefined || wishes.trustCommandLine;
  // With explicit trust, or with another command line, a plain user runs another user's VM as their own.
  const isTakenOver = isTrial || (isTrusted && !isRoot());
  const user = isTakenOver ? undefined : otherUser(manifest.process);
  if (memory !== undefined && user !== undefined) refuseMapped(user);
  const socketFolder = socketFolderOf(directory, user !== undefined);
  const monitorSocket = path.join(socketFolder, 'qmp.sock');
  const rewritten = rewriteForRestore(memory === undefined ? argv : mapMainMemory(argv, memory), {
    monitorSocket,
    consoleSocket: path.join(socketFolder, 'console.sock'),
    paused: !runs,
    machineType: manifest.machine.type,
  });
  const own = await giveIdentity(rewritten.args, { identity, directory: socketFolder });
  const isOwnCommandLine = wishes.qemuArgs !== undefined;
  const cwd = isOwnCommandLine ? process.cwd() : manifest.workingDirectory;
  if (!isTrusted) refuseUntrusted(own.args, subject, { ownFolder: socketFolder, cwd });
  // Mapped memory needs no transfer.
  const args = [...own.args, ...(memory === undefined ? transferMonitor(socketFolder) : [])];
  const saved = parseCommandLine(argv);
  const requisites = { manifest, user, isOwnCommandLine, isTrial, saved, cwd, directory, socketFolder };
  // The memory file may not exist yet.
  refuseUnmet({ ...requisites, rewritten: parseCommandLine(withoutMappedMemory(args)) });
  const agentSocket = agentSocketOf(own.args);
  const aftercare = {
    isClone: identity === 'clone',
    networks: sharedNetworks(parseCommandLine(own.args)),
    ...(agentSocket !== undefined && { agentSocket: path.resolve(cwd ?? '/', agentSocket) }),
  };
  const ownPath = (from: string) => own.moved.find((moved) => moved.from === from)?.to ?? from;
  return {
    binary: findQemuBinary({
      chosen: wishes.qemuBinary,
      recorded: manifest.qemu.binaryName,
      ran: manifest.process?.executable,
      isTrusted: () => wishes.trustCommandLine || subject.judgeSeal().status === 'own',
    }),
    args,
    cwd: cwd ?? '/',
    ...startOf(user, saved),
    socketFolder,
    runs,
    qmpSocket: path.resolve(cwd ?? '/', ownPath(rewritten.userQmpSocket ?? monitorSocket)),
    consoleSocket: rewritten.consoleSocket,
    moved: own.moved,
    needsOwnFolder: own.moved.length > 0 || isTrial,
    aftercare,
    notes: [
      ...rewritten.notes,
      ...stateNotes(manifest, runs),
      ...own.overlaid.map(
        (image) =>
          `What the VM writes to ${image} goes to a temporary overlay, and is lost when the VM ends.`,
      ),
      ...(isTrial ? [] : tapNotes(saved)),
      ...aftercareNotes(aftercare, runs),
    ],
  };
}

/** The reasons why a restore of this VM on this host, by its user and without further options, would be refused. */
export async function rehearseLaunch(subject: Omit<LaunchSubject, 'judgeSeal'>): Promise<readonly Problem[]> {
  const nothing = { run: false, qemuBinary: undefined, qemuArgs: undefined, trustCommandLine: false };
  try {
    await planLaunch({ ...subject, judgeSeal: () => ({ status: 'own' }) }, nothing);
    return [];
  } catch (error) {
    if (error instanceof LaunchRefusal) return error.problems;
    if (!(error instanceof VmckptError)) throw error;
    return [{ code: error.code, message: error.message, hint: error.hint ?? '' }];
  }
}

function commandLineOf({ manifest }: LaunchSubject, { qemuArgs }: LaunchWishes): string[] {
  const argv = withoutMappedMemory(qemuArgs ?? manifest.commandLine);
  if (argv.length > 0) return argv;
  throw new VmckptError('COMMAND_LINE_UNSUPPORTED', `the checkpoint "${manifest.name}" has no command line`, {
    hint: 'It was imported. Give a command line that starts its machine: vmckpt restore NAME -- QEMU ARGS…',
  });
}

/** With -runas, QEMU starts as this process's user and changes to another one before it is loaded. */
function startOf(user: User | undefined, saved: readonly Option[]): Pick<LaunchPlan, 'user' | 'socketOwner'> {
  if (user === undefined) return {};
  return { socketOwner: user, ...(changesUser(saved) ? {} : { user }) };
}

function refuseMapped({ uid }: User): never {
  throw new VmckptError(
    'MAP_REFUSED',
    `QEMU ran as the user ${uid}, who may not read this store's memory file`,
    { hint: 'Restore it in another mode: vmckpt restore NAME, or --mode eager.' },
  );
}

/** Everything that prevents a launch, in one error. */
class LaunchRefusal extends VmckptError {
  readonly problems: readonly Problem[];

  constructor(first: Problem, others: readonly Problem[]) {
    const problems = [first, ...others];
    super(first.code, problems.map(({ message }) => message).join('; '), { hint: first.hint });
    this.problems = problems;
  }
}

function refuseUnmet(requisites: Requisites): void {
  const [first, ...others] = unmetRequirements(requisites);
  if (first !== undefined) throw new LaunchRefusal(first, others);
}

/** If QEMU is allowed to, it creates a tap interface that does not exist. */
function tapNotes(options: readonly Option[]): string[] {
  const named = tapNames(options).filter((name) => hasInterface(name) === false);
  return named.map(
    (name) =>
      `The tap interface ${name} does not exist. QEMU creates it again, without its former bridge and addresses.`,
  );
}

/** A monitor serves one client at a time, so the serving process has its own. */
function transferMonitor(socketFolder: string): readonly string[] {
  const socket = path.join(socketFolder, 'transfer.sock').replaceAll(',', ',,');
  return [
    '-chardev',
    `socket,id=vmckpt-transfer,path=${socket},server=on,wait=off`,
    '-mon',
    'chardev=vmckpt-transfer,mode=control',
  ];
}

/** What the user has to do before the guest continues. */
function stateNotes({ vmState }: Pick<SavedVm, 'vmState'>, runs: boolean): string[] {
  if (vmState === 'suspended')
    return ['The guest was saved asleep. Wake it with system_wakeup in its monitor.'];
  if (runs) return [];
  if (vmState === undefined)
    return [
      'The VM stays paused, because it was saved paused. Start it with cont in its monitor, or with vmckpt restore --run.',
    ];
  const why = vmState === 'io-error' ? 'an I/O error had stopped it' : `it was in the state "${vmState}"`;
  return [
    `The VM stays paused, because ${why} when it was saved. Fix the cause, then run cont in its monitor.`,
  ];
}

/**
 * Judges the command line that will be run. Memory that vmckpt maps, and sockets in the VM's own folder, are
 * harmless.
 */
function refuseUntrusted(
  args: readonly string[],
  { manifest, judgeSeal }: LaunchSubject,
  options: TrustOptions,
): void {
  const found = untrustedOptions(withoutMappedMemory(args), options);
  if (found.length === 0) return;
  const verdict = judgeSeal();
  if (verdict.status === 'own') return;
  const list = found.map(({ option, reason }) => `${option} (${reason})`).join('; ');
  throw new VmckptError(
    'COMMAND_LINE_UNTRUSTED',
    `"${manifest.name}" is not known to be saved by this user: ${verdict.reason}. ` +
      `Its command line is not harmless: ${list}`,
    {
      hint: 'If you trust its owner, pass --trust-command-line. Otherwise give a command line of your own: vmckpt restore NAME -- QEMU ARGS…',
    },
  );
}
