/** From a manifest and the user's wishes to the command line of the new QEMU. Nothing is changed anywhere, so that a save can rehearse it. */
import path from 'node:path';
import type { Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { parseCommandLine } from '../qemu/command-line.js';
import { agentSocketOf } from '../qemu/guest-agent.js';
import { mapMainMemory, withoutMappedMemory, type MappedMemory } from '../qemu/mapped-memory.js';
import { sharedNetworks } from '../qemu/networks.js';
import { giveIdentity, type Identity } from '../qemu/own-identity.js';
import type { Moved } from '../qemu/relocation.js';
import { rewriteForRestore } from '../qemu/restore-command-line.js';
import { untrustedOptions } from '../qemu/trust.js';
import { findQemuBinary } from '../qemu/launch.js';
import type { SealVerdict } from '../store/seal.js';
import { aftercareNotes, type Aftercare } from './aftercare.js';

export interface LaunchWishes {
  readonly run: boolean;
  readonly qemuBinary: string | undefined;
  readonly qemuArgs: readonly string[] | undefined;
  readonly trustCommandLine: boolean;
  /** `original` by default: the VM takes the place of the one that was saved. */
  readonly identity?: Identity | undefined;
}

/** The VM's own, as a restore would make it. */
export interface LaunchFolder {
  readonly directory: string;
  file(name: 'qmp.sock' | 'console.sock' | 'transfer.sock'): string;
}

export interface LaunchSubject {
  readonly manifest: Manifest;
  /** Whether the manifest is what vmckpt saved for this user. */
  readonly judgeSeal: () => SealVerdict;
  readonly folder: LaunchFolder;
  /** The file that main memory is to be a mapping of. */
  readonly memory?: MappedMemory | undefined;
}

export interface LaunchPlan {
  readonly binary: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** Whether the VM runs once it is restored. */
  readonly runs: boolean;
  /** The socket to tell the user, from the root folder on. */
  readonly qmpSocket: string;
  readonly consoleSocket: string | undefined;
  /** What is in another place than in the saved command line. */
  readonly moved: readonly Moved[];
  /** Whether QEMU puts something below the VM's folder. */
  readonly needsOwnFolder: boolean;
  readonly aftercare: Aftercare;
  readonly notes: readonly string[];
}

/** @throws VmckptError COMMAND_LINE_UNTRUSTED, COMMAND_LINE_UNSUPPORTED, MAP_REFUSED, DISKS_WRITABLE, COLLISION, QEMU_NOT_FOUND */
export async function planLaunch(
  { manifest, judgeSeal, folder, memory }: LaunchSubject,
  wishes: LaunchWishes,
): Promise<LaunchPlan> {
  const argv = withoutMappedMemory(wishes.qemuArgs ?? manifest.commandLine);
  if (argv.length === 0)
    throw new VmckptError(
      'COMMAND_LINE_UNSUPPORTED',
      `${manifest.name}@${manifest.generation} holds no command line`,
      {
        hint: 'It was imported. Say how to start its machine: vmckpt restore NAME -- QEMU ARGS…',
      },
    );
  const runs = manifest.runState === 'running' || wishes.run;
  const rewritten = rewriteForRestore(memory === undefined ? argv : mapMainMemory(argv, memory), {
    monitorSocket: folder.file('qmp.sock'),
    consoleSocket: folder.file('console.sock'),
    paused: !runs,
    machineType: manifest.machine.type,
  });
  const { identity = 'original' } = wishes;
  const own = await giveIdentity(rewritten.args, { identity, directory: folder.directory });
  const isTrusted = wishes.qemuArgs !== undefined || wishes.trustCommandLine;
  if (!isTrusted) refuseUntrusted(own.args, { manifest, judgeSeal, folder });
  const agentSocket = agentSocketOf(own.args);
  const cwd = (wishes.qemuArgs === undefined ? manifest.workingDirectory : undefined) ?? process.cwd();
  const aftercare = {
    isClone: identity === 'clone',
    networks: sharedNetworks(parseCommandLine(own.args)),
    ...(agentSocket !== undefined && { agentSocket: path.resolve(cwd, agentSocket) }),
  };
  const ownPath = (from: string) => own.moved.find((moved) => moved.from === from)?.to ?? from;
  return {
    binary: findQemuBinary({ chosen: wishes.qemuBinary, recorded: manifest.qemu.binaryName }),
    // Mapped memory needs no transfer.
    args: [...own.args, ...(memory === undefined ? transferMonitor(folder) : [])],
    cwd,
    runs,
    qmpSocket: path.resolve(cwd, ownPath(rewritten.userQmpSocket ?? folder.file('qmp.sock'))),
    consoleSocket: rewritten.consoleSocket,
    moved: own.moved,
    needsOwnFolder: own.moved.length > 0 || identity === 'trial',
    aftercare,
    notes: [
      ...rewritten.notes,
      ...stateNotes(manifest, runs),
      ...own.overlaid.map((image) => `What the VM writes to ${image} is its own, and is lost when it ends.`),
      ...aftercareNotes(aftercare, runs),
    ],
  };
}

/** A monitor serves one client at a time: the transfer process has its own. */
function transferMonitor(folder: LaunchFolder): readonly string[] {
  const path = folder.file('transfer.sock').replaceAll(',', ',,');
  return [
    '-chardev',
    `socket,id=vmckpt-transfer,path=${path},server=on,wait=off`,
    '-mon',
    'chardev=vmckpt-transfer,mode=control',
  ];
}

/** What the user has to do before the guest goes on. */
function stateNotes({ vmState }: Manifest, runs: boolean): string[] {
  if (vmState === 'suspended')
    return ['The guest sleeps, as it was saved: system_wakeup in its monitor wakes it.'];
  if (vmState === undefined || runs) return [];
  const why = vmState === 'io-error' ? 'an I/O error had stopped it' : `it was in the state "${vmState}"`;
  return [
    `The VM stays paused, because ${why} when it was saved. See to that, and then: cont in its monitor.`,
  ];
}

/** Of what will really be run. Memory that we map ourselves, and sockets in the VM's own folder, are harmless. */
function refuseUntrusted(
  args: readonly string[],
  { manifest, judgeSeal, folder }: Pick<LaunchSubject, 'manifest' | 'judgeSeal' | 'folder'>,
): void {
  const found = untrustedOptions(withoutMappedMemory(args), folder.directory);
  if (found.length === 0) return;
  const verdict = judgeSeal();
  if (verdict.status === 'own') return;
  const list = found.map(({ option, reason }) => `${option} (${reason})`).join('; ');
  throw new VmckptError(
    'COMMAND_LINE_UNTRUSTED',
    `${manifest.name}@${manifest.generation} is not known to be saved by this user: ${verdict.reason}. ` +
      `Its command line is not harmless: ${list}`,
    {
      hint: 'If you trust whoever made it, pass --trust-command-line. Otherwise give a command line of your own: vmckpt restore NAME -- QEMU ARGS…',
    },
  );
}
