/** What is on record of a restored VM: `vm.json`, written by the verb, and `transfer.json`, by the serving process. */
import * as v from 'valibot';
import { aftercareSchema } from '../aftercare/order.js';
import { hugePagesSchema, memorySchema } from '../serving-protocol/order.js';
import { finite, integer, record } from '../util/schema.js';

const processSchema = v.object({ pid: integer, startTicks: v.number() });

export const RESTORE_MODES = ['prefetch', 'lazy', 'eager', 'map'] as const;
export type RestoreMode = (typeof RESTORE_MODES)[number];

export const vmSchema = v.object({
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
  /** What it has started is at work all the same, and may yet bring the VM up. */
  readonly isUnderWay?: boolean;
}

export const transferSchema = v.object({
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
