/** Test-runner glue of the harness: one suite on every QEMU that is here, and a directory of its own for each. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, describe } from 'vitest';
import { kvmProblem } from './bare.js';
import { qemu10Problem, type QemuChoice } from './cache.js';

/** Runs `suite` on the system's QEMU and on QEMU 10. Without the latter it is skipped by name; in CI it fails. */
export function describeOnEachQemu(title: string, suite: (qemu: QemuChoice) => void): void {
  describe(`${title} on the system's QEMU`, () => suite('system'));
  describeOnQemu10(title, () => suite('10'));
}

/** Runs `suite` on each QEMU under KVM. Where /dev/kvm does not open it is skipped by name, with the reason. */
export function describeUnderKvm(title: string, suite: (qemu: QemuChoice) => void): void {
  const problem = kvmProblem();
  if (problem === undefined) describeOnEachQemu(`${title} under KVM`, suite);
  else describe.skip(`${title} under KVM (${problem})`, () => suite('system'));
}

/** Skipped by name where QEMU 10 is not here. */
export function describeOnQemu10(title: string, suite: () => void): void {
  const problem = qemu10Problem();
  if (problem === undefined) describe(`${title} on QEMU 10`, suite);
  else if (process.env['CI'] === 'true') throw new Error(`CI needs QEMU 10: ${problem}`);
  else describe.skip(`${title} on QEMU 10 (not here: ${problem})`, suite);
}

/** A fresh directory with a path short enough for unix sockets, removed after the enclosing suite. */
export function suiteDirectory(): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'vmckpt-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}
