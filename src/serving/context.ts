/** What a serving process works with, whichever way it brings the memory. */
import type { CheckpointReader } from '../checkpoint/reader.js';
import type { CheckpointImage } from '../native/index.js';
import type { ExtentSource } from '../pages/contracts.js';
import { queryMigrate } from '../qemu/migration-control.js';
import type { QmpClient } from '../qemu/qmp.js';
import type { MachineState } from '../transfer/whole-machine.js';
import { poll } from '../util/deadline.js';
import type { Aftercare } from '../aftercare/order.js';
import type { BlockInQemu } from './memory/qemu-memory.js';
import { log } from './log.js';
import type { TransferStatus } from './status.js';
import type { VerbLine } from './verb-line.js';
import type { DirectlyFilled } from '../serving-protocol/order.js';
import type { VmFolder } from '../vms/folder.js';

const COMPLETION_TIMEOUT_MS = 30_000;

export interface TransferContext {
  readonly folder: VmFolder;
  readonly reader: CheckpointReader;
  readonly extents: ExtentSource;
  /** The same checkpoint for native code, opened on first use. */
  readonly image: () => CheckpointImage;
  readonly status: TransferStatus;
  readonly verb: VerbLine;
}

/** A QEMU and what it is to load. */
export interface LoadingMachine {
  readonly state: MachineState;
  /** Accepts out-of-band commands. */
  readonly monitor: QmpClient;
  /** A predecessor has started the work. */
  readonly isSuccessor: boolean;
}

/** Does once what the VM needs besides its memory. The code is loaded when the VM runs, not while QEMU waits. */
export async function careFor(
  { folder, status }: TransferContext,
  aftercare: Aftercare | undefined,
): Promise<void> {
  if (aftercare === undefined || status.caredFor) return;
  // A failure here does not concern the VM's memory.
  try {
    const { beginAftercare } = await import('../aftercare/begin.js');
    beginAftercare(folder.aftercareFiles, aftercare);
    status.caredFor = true;
    status.write('serving');
  } catch (error) {
    await log('error', { err: error }, 'the guest is told nothing of its restore');
  }
}

export function placedIn(reader: CheckpointReader, { blocks }: DirectlyFilled): BlockInQemu[] {
  return blocks.map(({ blockName, hostAddress }) => ({
    block: reader.layout.byName(blockName)!,
    hostAddress,
  }));
}

export async function untilCompleted(monitor: QmpClient): Promise<void> {
  await poll(async () => (await queryMigrate(monitor)).status === 'completed' || undefined, {
    what: 'QEMU to complete the migration',
    timeoutMs: COMPLETION_TIMEOUT_MS,
    everyMs: 2,
  });
}
