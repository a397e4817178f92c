/** Examines a host for everything that vmckpt needs, in the order in which it is needed. Changes nothing. */
import { examineAddon, examineKernel, examinePerl, examineTracing } from './host.js';
import { examineKvm } from './kvm.js';
import { findLeftovers } from './leftovers.js';
import { examineQemu } from './qemu.js';
import { examineStore } from './store.js';
import { examineTracker, listTracked } from './tracker.js';
import type { Finding } from './finding.js';

export type { Finding } from './finding.js';

export interface DoctorOptions {
  readonly storeDir: string;
  /** Undefined: the one on PATH. */
  readonly qemuBinary: string | undefined;
  readonly signal: AbortSignal;
}

/** On a healthy host every finding is `ok`. @throws the signal's reason */
export async function doctor({ storeDir, qemuBinary, signal }: DoctorOptions): Promise<Finding[]> {
  return [
    examineAddon(),
    ...examinePerl(),
    examineKernel(),
    ...(await examineQemu(qemuBinary, signal)),
    await examineKvm(qemuBinary, signal),
    examineTracing(),
    examineTracker(),
    ...(await listTracked()),
    examineStore(storeDir),
    ...(await findLeftovers(storeDir)),
  ];
}
