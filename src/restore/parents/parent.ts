/** Starts QEMU and the process that serves its memory: a keeper or, without the addon, the verb itself. */
import type { StartedProcess, StartOptions } from '../../qemu/launch.js';
import type { ProcessIdentity } from '../../util/process-identity.js';
import type { GenerationRef } from '../../store/generation-ref.js';
import type { PrefetchWishes } from '../../working-set/plan.js';
import type { ServerClient } from '../server-client/client.js';
import type { ServedTransfer } from '../server-client/handle.js';
import type { VmFolder } from '../../vms/folder.js';

export interface ServerStart {
  readonly folder: VmFolder;
  readonly generation: GenerationRef;
  readonly wishes: PrefetchWishes | undefined;
}

export interface ProcessParent {
  /** The keeper's; it outlives the verb. */
  readonly identity: ProcessIdentity | undefined;
  /** The first one. */
  readonly server: ServerClient;
  /** Called when the VM runs: from here on a server that dies is replaced. */
  keepServing(): ServedTransfer;
  /** @throws VmckptError QEMU_FAILED_TO_START, TIMEOUT */
  startQemu(options: StartOptions): Promise<StartedProcess>;
  /** Ends everything it started, including a QEMU that it could not report. Returns when none of it writes any more. */
  kill(): Promise<void>;
  /** The verb may end now; everything else goes on. */
  release(): void;
}
