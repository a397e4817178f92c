/** What the verb and the transfer process say to each other: lines of JSON on a socket of their own. */
import * as v from 'valibot';
import { aftercareSchema } from '../launch/aftercare.js';
import { hugePagesSchema, memorySchema } from './vm-record.js';

/** Among the arguments of a transfer process that takes the place of one that died. */
export const SUCCESSOR_FLAG = '--successor';
/** The transfer process's descriptors: its line to the verb, and the one to its keeper (native/core/keeper.h). */
export const VERB_FD = 3;
export const KEEPER_FD = 4;
/** Of one message. */
export const MAX_MESSAGE_BYTES = 16 << 20;
/** What a keeper holds for a transfer process, by slot. */
export const HELD = { migrationSocket: 0, userfaultfd: 1, pageTable: 2 } as const;

/** Verb → transfer: QEMU listens on the migration socket, and this is what to do. */
export const orderSchema = v.object({
  mode: v.picklist(['lazy', 'eager']),
  preempt: v.picklist(['off', 'at-once', 'after-pong']),
  /** Capabilities to switch off again once all memory is there: with them on, the next save would be refused. */
  capabilities: v.array(v.string()),
  /** What is to be filled directly; absent where all goes through the stream. */
  memory: v.optional(memorySchema),
  hugePages: v.optional(hugePagesSchema),
  /** Whether the VM runs as soon as it is loaded; background pages wait for that. */
  runs: v.boolean(),
  /** Begins when the VM runs, whether the verb lives or not. */
  aftercare: v.optional(aftercareSchema),
  background: v.picklist(['at-once', 'when-told', 'never']),
  /** On the direct path a fault brings its page and no other: every page that is touched is asked for. */
  exactly: v.boolean(),
});
/**
 * When pages come that nobody asks for. `when-told`: once the verb says another word, or ends. `never`: for
 * measurements on the direct path, which get the pages that are asked for and no others; the memory is never complete.
 */
export type Background = v.InferOutput<typeof orderSchema>['background'];
export type TransferOrder = v.InferOutput<typeof orderSchema>;

export const countersSchema = v.object({
  demandFaults: v.number(),
  withheldFaults: v.optional(v.number(), 0),
  prefetchedPages: v.number(),
  backgroundPages: v.number(),
  zeroPages: v.number(),
  transferredBytes: v.number(),
  faultP50Us: v.number(),
  faultP90Us: v.number(),
  faultP99Us: v.number(),
  faultMaxUs: v.number(),
  vcpuBlockedMs: v.number(),
});
export type TransferCounters = Readonly<v.InferOutput<typeof countersSchema>>;

/** Transfer → verb. */
export type TransferMessage =
  | { readonly type: 'loaded' }
  /** QEMU has the machine's state; memory is served on demand. */
  | { readonly type: 'machine-loaded' }
  | {
      readonly type: 'complete';
      readonly counters: TransferCounters;
      /** 0th to 100th. Null: there were no faults, or nobody has kept their times. */
      readonly faultPercentilesUs: readonly number[] | null;
      readonly completeAtMs: number;
    }
  | {
      readonly type: 'failed';
      readonly code: string;
      readonly message: string;
      readonly hint?: string | undefined;
    };
