/** What the verb and the transfer process say to each other, over Node's IPC. */
import { z } from 'zod';
import { memorySchema } from './vm-record.js';

/** Verb → transfer: QEMU listens on the migration socket, and this is what to do. */
export const orderSchema = z.object({
  mode: z.enum(['lazy', 'eager']),
  preempt: z.enum(['off', 'at-once', 'after-pong']),
  /** Capabilities to switch off again once all memory is there: with them on, the next save would be refused. */
  capabilities: z.array(z.string()),
  /** Where main memory lies in QEMU, to be filled directly; absent where it goes through the stream. */
  memory: memorySchema.optional(),
  /** Whether the VM runs as soon as it is loaded; background pages wait for that. */
  runs: z.boolean(),
  /** A VM that waits in postcopy-recover is taken over, instead of a new one started. */
  recover: z.boolean(),
});
export type TransferOrder = z.infer<typeof orderSchema>;

export interface TransferCounters {
  readonly demandFaults: number;
  readonly prefetchedPages: number;
  readonly prefetchUsedPages: number;
  readonly backgroundPages: number;
  readonly zeroPages: number;
  readonly transferredBytes: number;
  readonly faultP50Us: number;
  readonly faultP90Us: number;
  readonly faultP99Us: number;
  readonly faultMaxUs: number;
  readonly vcpuBlockedMs: number;
}

/** Transfer → verb. */
export type TransferMessage =
  | { readonly type: 'loaded' }
  /** QEMU has the machine's state; memory is served on demand. */
  | { readonly type: 'machine-loaded' }
  | { readonly type: 'complete'; readonly counters: TransferCounters; readonly completeAtMs: number }
  | {
      readonly type: 'failed';
      readonly code: string;
      readonly message: string;
      readonly hint?: string | undefined;
    };
