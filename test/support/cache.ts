/** Where fixtures/*.sh leave what they build, and which QEMUs there are to test with. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { PACKAGE_ROOT } from '../../src/util/package-paths.js';

const CACHE = process.env['VMCKPT_CACHE'] ?? path.join(PACKAGE_ROOT, '.cache');

/** Unpacked beside the system's by fixtures/qemu.sh. */
export type NewerQemu = '10' | '11';

/** 'system' is the distribution's QEMU. */
export type QemuChoice = 'system' | NewerQemu;

/** Path of a file that fixtures/guest/build.sh makes. */
export function guestFile(name: 'vmlinuz' | 'initramfs.cpio' | 'disk.img' | 'blob.bin'): string {
  const file = path.join(CACHE, 'guest', name);
  if (!existsSync(file)) throw new Error(`${file} does not exist; run fixtures/guest/build.sh`);
  return file;
}

/** Path of what fixtures/bare/build.sh makes. */
export function bareGuestFile(): string {
  const file = path.join(CACHE, 'bare', 'bare.elf');
  if (!existsSync(file)) throw new Error(`${file} does not exist; run fixtures/bare/build.sh`);
  return file;
}

/** Absolute path of the binary; any other string than a QemuChoice is taken as one. */
export function qemuBinary(qemu: string): string {
  if (qemu === 'system') return '/usr/bin/qemu-system-x86_64';
  return qemu === '10' || qemu === '11' ? path.join(CACHE, `qemu${qemu}`, 'qemu-system-x86_64') : qemu;
}

/** Why a QEMU cannot be tested here, or undefined when it can. */
export function qemuProblem(version: NewerQemu): string | undefined {
  if (existsSync(qemuBinary(version))) return undefined;
  const reason = path.join(CACHE, `qemu${version}.unavailable`);
  return existsSync(reason) ? readFileSync(reason, 'utf8').trim() : `fixtures/qemu.sh ${version} was not run`;
}

/** Path of a file that fixtures/ceph.sh has unpacked. */
export function cephFile(name: string): string {
  return path.join(CACHE, 'ceph', name);
}

/** Why Ceph cannot be used here, or undefined when it can. */
export function cephProblem(): string | undefined {
  if (existsSync(cephFile('bin/radosgw'))) return undefined;
  const reason = path.join(CACHE, 'ceph.unavailable');
  return existsSync(reason) ? readFileSync(reason, 'utf8').trim() : 'fixtures/ceph.sh was not run';
}
