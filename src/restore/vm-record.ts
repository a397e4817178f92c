/**
 * What is known of a restored VM, in its folder below the runtime folder: `vm.json`, written by the restoring
 * verb, and `transfer.json`, written by the transfer process while it serves memory.
 */
import {
  closeSync,
  existsSync,
  lchownSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { OWN_FOLDER } from '../qemu/own-identity.js';
import { aftercareSchema } from '../launch/aftercare.js';
import { shortFolderOf } from '../launch/vm-places.js';
import { tryLockFile } from '../native/index.js';
import { LockFile } from '../store/lock-file.js';
import { requireName } from '../store/reference.js';
import { readJsonFile, writeJsonFile } from '../util/json-file.js';
import { identifyProcess, isAlive, type ProcessIdentity } from '../util/process-identity.js';
import { ensureRuntimeDir, findRuntimePath, runtimeDirs } from '../util/runtime-dir.js';
import { finite, integer, parse, record } from '../util/schema.js';

const processSchema = v.object({ pid: integer, startTicks: v.number() });

/** Memory that is filled directly, and where it lies in QEMU's address space. */
export const memorySchema = v.object({
  /** QEMU's. */
  pid: v.number(),
  blocks: v.pipe(v.array(v.object({ blockName: v.string(), hostAddress: v.number() })), v.minLength(1)),
});
export type DirectlyFilled = v.InferOutput<typeof memorySchema>;

/** RAM block → bytes of a page of its memory, where those are larger than ours (src/pages/host-pages.ts). */
export const hugePagesSchema = record(v.number());

export const RESTORE_MODES = ['prefetch', 'lazy', 'eager', 'map'] as const;
export type RestoreMode = (typeof RESTORE_MODES)[number];

const vmSchema = v.object({
  /** The VM's. */
  name: v.string(),
  /** The name of its checkpoint, where that is another one. */
  checkpoint: v.optional(v.string()),
  generation: integer,
  generationDir: v.string(),
  mode: v.picklist(RESTORE_MODES),
  preempt: v.picklist(['off', 'at-once', 'after-pong']),
  capabilities: v.array(v.string()),
  memory: v.optional(memorySchema),
  hugePages: v.optional(hugePagesSchema),
  /** For a VM that runs as soon as it is loaded. */
  aftercare: v.optional(aftercareSchema),
  ramBytes: v.number(),
  restoredAt: v.string(),
  /** The verb that is restoring, or has restored it. */
  verb: processSchema,
  /** QEMU's parent, which starts another transfer process when one dies. */
  keeper: v.optional(processSchema),
  qemu: v.optional(processSchema),
  /** The user's own QMP socket if the command line has one, else vmckpt's. */
  qmpSocket: v.string(),
  consoleSocket: v.optional(v.string()),
});
export interface VmRecord extends v.InferOutput<typeof vmSchema> {
  /** The verb died before it could note that the VM runs; QEMU was found by its command line. */
  readonly unattended?: true;
  /** Its transfer is at work all the same, and may yet load it. */
  readonly isServed?: boolean;
}

const transferSchema = v.object({
  process: processSchema,
  status: v.picklist(['serving', 'complete', 'failed', 'damaged']),
  /** The machine is in QEMU, whose memory is served on demand: the VM lives, whatever becomes of this process. */
  loaded: v.optional(v.boolean()),
  caredFor: v.optional(v.boolean()),
  error: v.optional(v.object({ code: v.string(), message: v.string() })),
  /** The monitor connection that QEMU keeps for a successor. */
  held: v.optional(v.object({ pid: v.number(), inode: v.number() })),
  counters: v.optional(record(finite)),
  /** When the last page was in place: wall clock, ms. */
  completeAtMs: v.optional(v.number()),
});
export interface TransferRecord extends v.InferOutput<typeof transferSchema> {
  /** When it was last written, or touched: wall clock, ms. */
  readonly notedAtMs?: number | undefined;
}

const REPLACED_WITHIN_MS = 3_000;

/** `abandoned`: the restoring verb died before the VM ran, and now it never will. */
export type VmStatus =
  'starting' | 'serving' | 'complete' | 'transfer-lost' | 'damaged' | 'abandoned' | 'ended';

/** The files of one restored VM. */
export class VmFolder {
  readonly name: string;
  #directory: string;
  #claim: number | undefined;

  constructor(name: string) {
    this.name = name;
    this.#directory = findRuntimePath('vms', name);
  }

  get directory(): string {
    return this.#directory;
  }

  /** Nobody else restores under this name until the record is written. Says whether that was still free. */
  claim(): boolean {
    const fd = openSync(path.join(ensureRuntimeDir('claims'), this.name), 'w', 0o600);
    if (tryLockFile(fd)) this.#claim = fd;
    else closeSync(fd);
    return this.#claim !== undefined;
  }

  disclaim(): void {
    if (this.#claim !== undefined) closeSync(this.#claim);
    this.#claim = undefined;
  }

  create(): void {
    this.#directory = ensureRuntimeDir('vms', this.name);
  }

  /** See launch/vm-places. */
  get socketFolder(): string {
    const short = shortFolderOf(this.directory);
    return existsSync(short) ? short : this.directory;
  }

  /** For what a VM has in other places than the one that was saved (see qemu/own-identity). */
  get ownFolder(): string {
    return path.join(this.socketFolder, OWN_FOLDER);
  }

  file(
    name:
      | 'vm.json'
      | 'transfer.json'
      | 'transfer.lock'
      | 'qmp.sock'
      | 'transfer.sock'
      | 'console.sock'
      | 'migration.sock'
      | 'qemu.log'
      | 'transfer.log',
  ): string {
    return path.join(name.endsWith('.sock') ? this.socketFolder : this.directory, name);
  }

  read(): VmRecord | undefined {
    const record = readJsonFile(vmSchema, this.file('vm.json'));
    if (record === undefined || record.qemu !== undefined || isAlive(record.verb)) return record;
    const isServed = LockFile.holderOf(this.file('transfer.lock')) !== undefined;
    return { ...record, qemu: findListener(this.file('qmp.sock')), unattended: true, isServed };
  }

  write(record: VmRecord): void {
    writeJsonFile(this.file('vm.json'), parse(vmSchema, record));
    this.disclaim();
  }

  readTransfer(): TransferRecord | undefined {
    const record = readJsonFile(transferSchema, this.file('transfer.json'));
    return record && { ...record, notedAtMs: this.transferNotedAtMs() };
  }

  /** When the transfer process last noted how it goes: wall clock, ms. */
  transferNotedAtMs(): number | undefined {
    return statSync(this.file('transfer.json'), { throwIfNoEntry: false })?.mtimeMs;
  }

  /** A sign of life where nothing can be written; the file may be gone with its folder. */
  touchTransfer(): void {
    try {
      utimesSync(this.file('transfer.json'), new Date(), new Date());
    } catch {
      // Then nobody looks at it either.
    }
  }

  writeTransfer(record: TransferRecord): void {
    writeJsonFile(this.file('transfer.json'), parse(transferSchema, record));
  }

  remove(): void {
    this.clear();
    this.disclaim();
  }

  clear(): void {
    const { socketFolder, ownFolder } = this;
    // What another user's QEMU has there may not be changed while it is removed.
    if (socketFolder !== this.directory && process.geteuid?.() === 0)
      for (const folder of [socketFolder, ownFolder]) if (existsSync(folder)) lchownSync(folder, 0, 0);
    for (const folder of [socketFolder, this.directory]) rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * The folder for a VM that is to be restored under this name; what an ended VM has left there goes.
 * @throws VmckptError VM_BUSY when such a VM lives
 */
export function claimFolder(name: string): VmFolder {
  const folder = new VmFolder(name);
  if (!folder.claim())
    throw new VmckptError('VM_BUSY', `"${name}" is being restored at this moment`, {
      hint: 'Wait until it runs; --as gives this one another name.',
    });
  const record = folder.read();
  if (record !== undefined) {
    const status = statusOf(record, folder.readTransfer());
    if (status !== 'ended') {
      folder.disclaim();
      throw new VmckptError('VM_BUSY', `a restored VM called "${name}" is still there (${status})`, {
        hint: `vmckpt ps shows it, vmckpt stop ${name} ends it, --as gives this one another name.`,
      });
    }
  }
  folder.clear();
  folder.create();
  return folder;
}

/** Every VM that vmckpt has restored and not yet forgotten. */
export function listVmFolders(): VmFolder[] {
  const directories = runtimeDirs().map((root) => path.join(root, 'vms'));
  const names = directories.filter(existsSync).flatMap((directory) => readdirSync(directory));
  return [...new Set(names)].sort().map((name) => new VmFolder(name));
}

/** @throws VmckptError BAD_NAME, NO_SUCH_VM */
export function requireVm(name: string): { folder: VmFolder; record: VmRecord } {
  requireName(name);
  const folder = new VmFolder(name);
  const record = folder.read();
  if (record !== undefined) return { folder, record };
  const known = listVmFolders()
    .map((vm) => vm.name)
    .join(', ');
  throw new VmckptError('NO_SUCH_VM', `no restored VM is called "${name}"`, {
    hint: known === '' ? 'There are no restored VMs.' : `Restored VMs: ${known}`,
  });
}

/** The QEMU that was told to listen there. Not asked through the socket: it may not be listening yet, or not answer. */
function findListener(socket: string): ProcessIdentity | undefined {
  const told = `${socket.replaceAll(',', ',,')},server=on`;
  const pid = readdirSync('/proc').find(
    (entry) => /^\d+$/.test(entry) && commandLineOf(entry).some((argument) => argument.includes(told)),
  );
  return pid === undefined ? undefined : identifyProcess(Number(pid));
}

/** Empty for a process that has just ended, or is not ours to see. */
function commandLineOf(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return [];
  }
}

/** A keeper, or without one the verb, starts another process at once; one that has not by then has given up. */
function isBeingReplaced({ keeper, verb }: VmRecord, { notedAtMs }: TransferRecord): boolean {
  return isAlive(keeper ?? verb) && Date.now() - (notedAtMs ?? 0) < REPLACED_WITHIN_MS;
}

export function statusOf(record: VmRecord, transfer: TransferRecord | undefined): VmStatus {
  const { qemu, keeper, verb, isServed } = record;
  // A keeper without a verb starts the QEMU that it was told to start, or ends; so does a transfer.
  if (qemu === undefined)
    return isAlive(verb) || (keeper && isAlive(keeper)) || isServed ? 'starting' : 'ended';
  if (!isAlive(qemu)) return 'ended';
  if (transfer === undefined) return isAlive(verb) || isServed ? 'starting' : 'abandoned';
  if (transfer.status === 'serving' && (isAlive(transfer.process) || isBeingReplaced(record, transfer)))
    return 'serving';
  if (record.unattended && !transfer.loaded) return 'abandoned';
  return transfer.status === 'complete' || transfer.status === 'damaged' ? transfer.status : 'transfer-lost';
}
