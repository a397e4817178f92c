/** Test-runner glue of the harness: one suite on every QEMU that is here, and a directory of its own for each. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeEach, describe } from 'vitest';
import { bestTracker } from '../../src/capture/open-tracker.js';
import { kvmProblem } from './bare.js';
import { cephProblem, qemuProblem, type QemuChoice } from './cache.js';

/** Runs `suite` on the system's QEMU and on QEMU 10. Without the latter it is skipped by name; in CI it fails. */
export function describeOnEachQemu(title: string, suite: (qemu: QemuChoice) => void): void {
  describe(`${title} on the system's QEMU`, () => suite('system'));
  describeOnQemu10(title, () => suite('10'));
}

/** Skipped by name where QEMU 10 is not here; in CI it fails. */
export function describeOnQemu10(title: string, suite: () => void): void {
  const problem = qemuProblem('10');
  if (problem !== undefined && process.env['CI'] === 'true') throw new Error(`CI needs QEMU 10: ${problem}`);
  describeUnless(problem, `${title} on QEMU 10`, suite);
}

/** Skipped by name where QEMU 11 is not here, also in CI: Debian's unstable release moves on. */
export function describeOnQemu11(title: string, suite: () => void): void {
  describeUnless(qemuProblem('11'), `${title} on QEMU 11`, suite);
}

/** Runs `suite` on every QEMU under KVM; skipped by name where /dev/kvm does not open. */
export function describeUnderKvm(title: string, suite: (qemu: QemuChoice) => void): void {
  describeUnless(kvmProblem(), `${title} under KVM`, () => {
    describeOnEachQemu(title, suite);
    describeOnQemu11(title, () => suite('11'));
  });
}

/** Skipped by name where Ceph is not here; in CI it fails. */
export function describeOnCeph(title: string, suite: () => void): void {
  const problem = cephProblem();
  if (problem !== undefined && process.env['CI'] === 'true') throw new Error(`CI needs Ceph: ${problem}`);
  describeUnless(problem, title, suite);
}

function describeUnless(problem: string | undefined, title: string, suite: () => void): void {
  if (problem === undefined) describe(title, suite);
  else describe.skip(`${title} (not here: ${problem})`, suite);
}

/** A fresh directory with a path short enough for unix sockets, removed after the enclosing suite. */
export function suiteDirectory(): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'vmckpt-'));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** Without a write tracker nothing is captured: each test is skipped, and says what this kernel lacks. */
export function skipWithoutTracker(wanted?: 'write-protection'): void {
  const { kind, shortfall } = bestTracker();
  const isMissing = wanted === undefined ? kind === 'none' : kind !== wanted;
  beforeEach((context) => context.skip(isMissing, shortfall));
}
