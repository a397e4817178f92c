/** From a manifest and the user's wishes to the command line of the new QEMU. */
import type { Manifest } from '../checkpoint/manifest.js';
import { VmckptError } from '../errors.js';
import { mapMainMemory, withoutMappedMemory, type MappedMemory } from '../qemu/mapped-memory.js';
import { rewriteForRestore } from '../qemu/restore-command-line.js';
import { untrustedOptions } from '../qemu/trust.js';
import { findQemuBinary } from '../qemu/launch.js';
import { identifyProcess } from '../util/process-identity.js';
import type { RestoreMode, VmFolder, VmRecord } from './vm-record.js';

export interface LaunchWishes {
  readonly run: boolean;
  readonly qemuBinary: string | undefined;
  readonly qemuArgs: readonly string[] | undefined;
  readonly trustCommandLine: boolean;
  readonly trial?: { readonly args: readonly string[] };
}

export interface LaunchSubject {
  readonly manifest: Manifest;
  readonly folder: VmFolder;
  /** The file that main memory is to be a mapping of. */
  readonly memory?: MappedMemory | undefined;
}

export interface LaunchPlan {
  readonly binary: string;
  readonly args: readonly string[];
  readonly cwd: string;
  /** Whether the VM runs once it is restored. */
  readonly runs: boolean;
  /** The socket to tell the user. */
  readonly qmpSocket: string;
  readonly consoleSocket: string | undefined;
  readonly notes: readonly string[];
}

/** @throws VmckptError COMMAND_LINE_UNTRUSTED, COMMAND_LINE_UNSUPPORTED, MAP_REFUSED, QEMU_NOT_FOUND */
export function planLaunch({ manifest, folder, memory }: LaunchSubject, wishes: LaunchWishes): LaunchPlan {
  const argv = withoutMappedMemory(wishes.trial?.args ?? wishes.qemuArgs ?? manifest.commandLine);
  if (argv.length === 0)
    throw new VmckptError(
      'COMMAND_LINE_UNSUPPORTED',
      `${manifest.name}@${manifest.generation} holds no command line`,
      {
        hint: 'It was imported. Say how to start its machine: vmckpt restore NAME -- QEMU ARGS…',
      },
    );
  if (wishes.qemuArgs === undefined && !wishes.trustCommandLine) refuseUntrusted(argv);
  const runs = manifest.runState === 'running' || wishes.run;
  const rewritten = rewriteForRestore(memory === undefined ? argv : mapMainMemory(argv, memory), {
    monitorSocket: folder.file('qmp.sock'),
    consoleSocket: folder.file('console.sock'),
    paused: !runs,
    machineType: manifest.machine.type,
  });
  return {
    binary: findQemuBinary({ chosen: wishes.qemuBinary, recorded: manifest.qemu.binaryName }),
    // Mapped memory needs no transfer.
    args: [...rewritten.args, ...(memory === undefined ? transferMonitor(folder) : [])],
    cwd: (wishes.qemuArgs === undefined ? manifest.workingDirectory : undefined) ?? process.cwd(),
    runs,
    qmpSocket: rewritten.userQmpSocket ?? folder.file('qmp.sock'),
    consoleSocket: rewritten.consoleSocket,
    notes: rewritten.notes,
  };
}

export interface VmBeginnings {
  readonly manifest: Manifest;
  readonly generationDir: string;
  readonly mode: RestoreMode;
  readonly plan: LaunchPlan;
  readonly verbStartMs: number;
}

/** What is known of a VM before its QEMU is started. */
export function newRecord({ manifest, generationDir, mode, plan, verbStartMs }: VmBeginnings): VmRecord {
  const { name, generation, sizes } = manifest;
  return {
    name,
    generation,
    generationDir,
    mode,
    preempt: 'off',
    capabilities: [],
    ramBytes: sizes.ramBytes,
    restoredAt: new Date(verbStartMs).toISOString(),
    verb: identifyProcess(process.pid)!,
    qmpSocket: plan.qmpSocket,
    ...(plan.consoleSocket !== undefined && { consoleSocket: plan.consoleSocket }),
  };
}

/** A monitor serves one client at a time: the transfer process has its own. */
function transferMonitor(folder: VmFolder): readonly string[] {
  const path = folder.file('transfer.sock').replaceAll(',', ',,');
  return [
    '-chardev',
    `socket,id=vmckpt-transfer,path=${path},server=on,wait=off`,
    '-mon',
    'chardev=vmckpt-transfer,mode=control',
  ];
}

function refuseUntrusted(argv: readonly string[]): void {
  const found = untrustedOptions(argv);
  if (found.length === 0) return;
  const list = found.map(({ option, reason }) => `${option} (${reason})`).join('; ');
  throw new VmckptError('COMMAND_LINE_UNTRUSTED', `the saved command line is not harmless: ${list}`, {
    hint: 'If the checkpoint comes from you: --trust-command-line. Or give a command line of your own: -- QEMU ARGS…',
  });
}
