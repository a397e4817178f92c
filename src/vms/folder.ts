/** The folder of a restored VM in the runtime folder, and its files. */
import { existsSync, lchownSync, readdirSync, rmSync, statSync, utimesSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { OWN_FOLDER } from '../qemu/own-identity.js';
import { LockFile } from '../store/lock-file.js';
import { requireName } from '../store/reference.js';
import { readJsonFile, writeJsonFile } from '../util/json-file.js';
import { isAlive } from '../util/process-identity.js';
import { ensureRuntimeDir, findRuntimePath, runtimeDirs } from '../util/runtime-dir.js';
import { parse } from '../util/schema.js';
import { findListener, findLostVms, hasLeftProcesses, type LostVm } from './orphans.js';
import { shortFolderOf } from './places.js';
import { anyVmSchema, transferSchema, vmSchema, type TransferRecord, type VmRecord } from './records.js';

/** The files of one restored VM. */
export class VmFolder {
  readonly name: string;
  #directory: string;

  constructor(name: string) {
    this.name = name;
    this.#directory = findRuntimePath('vms', name);
  }

  get directory(): string {
    return this.#directory;
  }

  create(): void {
    this.#directory = ensureRuntimeDir('vms', this.name);
  }

  /** See launch/vm-places. */
  get socketFolder(): string {
    const short = shortFolderOf(this.directory);
    return existsSync(short) ? short : this.directory;
  }

  /** For what a restored VM has in a place of its own (see qemu/own-identity). */
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

  /** What the aftercare needs (src/aftercare/begin.ts). */
  get aftercareFiles(): { readonly monitorSocket: string; readonly logPath: string } {
    return { monitorSocket: this.file('qmp.sock'), logPath: this.file('transfer.log') };
  }

  /** The record as it was written last. */
  readNoted(): VmRecord | undefined {
    return readJsonFile(anyVmSchema, this.file('vm.json'));
  }

  /**
   * The record, and how it stands with a VM whose verb died before it noted QEMU. Only a process that has just started
   * QEMU knows its id; if it is killed before it can write that down, QEMU is found by its command line.
   */
  read(): VmRecord | undefined {
    const record = this.readNoted();
    if (record === undefined || record.qemu !== undefined || isAlive(record.verb)) return record;
    const qemu = findListener(this.file('qmp.sock'));
    const isServed = LockFile.holderOf(this.file('transfer.lock')) !== undefined;
    const isUnderWay = isServed || (qemu === undefined && hasLeftProcesses(record.keeper));
    return { ...record, qemu, unattended: true, isUnderWay };
  }

  /** Whether there is a record, of any version. */
  hasRecord(): boolean {
    return existsSync(this.file('vm.json'));
  }

  write(record: VmRecord): void {
    writeJsonFile(this.file('vm.json'), parse(vmSchema, record));
  }

  readTransfer(): TransferRecord | undefined {
    const record = readJsonFile(transferSchema, this.file('transfer.json'));
    return record && { ...record, notedAtMs: this.transferNotedAtMs() };
  }

  /** When the serving process last recorded its status: wall clock, ms. */
  transferNotedAtMs(): number | undefined {
    return statSync(this.file('transfer.json'), { throwIfNoEntry: false })?.mtimeMs;
  }

  /** A sign of life where nothing can be written. The file may be gone with its folder. */
  touchTransfer(): void {
    try {
      utimesSync(this.file('transfer.json'), new Date(), new Date());
    } catch {
      // The folder is gone: nothing looks at the file any more.
    }
  }

  writeTransfer(record: TransferRecord): void {
    writeJsonFile(this.file('transfer.json'), parse(transferSchema, record));
  }

  remove(): void {
    const { socketFolder, ownFolder } = this;
    // Another user's QEMU may own this folder: nothing in it may be exchanged while root removes it.
    if (socketFolder !== this.directory && process.geteuid?.() === 0)
      for (const folder of [socketFolder, ownFolder]) if (existsSync(folder)) lchownSync(folder, 0, 0);
    for (const folder of [socketFolder, this.directory]) rmSync(folder, { recursive: true, force: true });
  }
}

/** Every VM that vmckpt has restored and not yet forgotten. */
export function listVmFolders(): VmFolder[] {
  const directories = runtimeDirs().map((root) => path.join(root, 'vms'));
  const names = directories.filter(existsSync).flatMap((directory) => readdirSync(directory));
  return [...new Set(names)].sort().map((name) => new VmFolder(name));
}

/** VMs that run although their records are gone. */
export function listLostVms(): LostVm[] {
  return findLostVms(runtimeDirs());
}

/** @throws VmckptError BAD_NAME, NO_SUCH_VM */
export function requireVm(name: string): { folder: VmFolder; record: VmRecord } {
  requireName(name, 'a VM');
  const folder = new VmFolder(name);
  const record = folder.read();
  if (record !== undefined) return { folder, record };
  const lost = listLostVms().find((vm) => vm.name === name);
  if (lost !== undefined)
    throw new VmckptError(
      'NO_SUCH_VM',
      `the folder of "${name}" was deleted: nothing is known about this VM`,
      {
        hint: `Its QEMU still runs, as process ${lost.pid}. End it with: kill ${lost.pid}`,
      },
    );
  const known = listVmFolders()
    .map((vm) => vm.name)
    .join(', ');
  throw new VmckptError('NO_SUCH_VM', `no restored VM is called "${name}"`, {
    hint: known === '' ? 'There are no restored VMs.' : `Restored VMs: ${known}`,
  });
}
