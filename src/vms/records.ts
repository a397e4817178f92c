/** What is on record of a restored VM: `vm.json`, written by the verb, and `transfer.json`, by the serving process. */
import * as v from 'valibot';
import { olderOrderSchema, orderSchema } from '../serving-protocol/order.js';
import type { GenerationRef } from '../store/generation-ref.js';
import { finite, integer, record } from '../util/schema.js';

const processSchema = v.object({ pid: integer, startTicks: v.number() });

export const RESTORE_MODES = ['prefetch', 'lazy', 'eager', 'map'] as const;
export type RestoreMode = (typeof RESTORE_MODES)[number];

/** What `vm.json` has had from the beginning. */
const vmFields = {
  /** The VM's. */
  name: v.string(),
  /** The name of its checkpoint, where that is another one. */
  checkpoint: v.optional(v.string()),
  generation: integer,
  generationDir: v.string(),
  /** The manifest's. */
  generationId: v.optional(v.string()),
  mode: v.picklist(RESTORE_MODES),
  ramBytes: v.number(),
  restoredAt: v.string(),
  /** The verb that is restoring, or has restored it. */
  verb: processSchema,
  /** QEMU's parent, which starts another serving process when one dies. */
  keeper: v.optional(processSchema),
  qemu: v.optional(processSchema),
  /** The user's own QMP socket if the command line has one, else vmckpt's. */
  qmpSocket: v.string(),
  consoleSocket: v.optional(v.string()),
};

export const RECORD_VERSION = 2 as const;

export const vmSchema = v.object({
  ...vmFields,
  version: v.literal(RECORD_VERSION),
  /** What its serving process is told; absent until then, and where the VM's memory is a mapped file. */
  order: v.optional(orderSchema),
});

/** As vmckpt wrote it before records had a version, for VMs that live on from then. */
const olderVmSchema = v.pipe(
  v.looseObject(vmFields),
  v.transform((record) => {
    const { mode } = record;
    const order = { ...record, mode: mode === 'eager' ? 'eager' : 'lazy' };
    return {
      ...v.parse(v.object(vmFields), record),
      version: RECORD_VERSION,
      ...(mode !== 'map' && { order: v.parse(olderOrderSchema, order) }),
      isOlder: true as const,
    };
  }),
);

export const anyVmSchema = v.union([vmSchema, olderVmSchema]);

export interface VmRecord extends v.InferOutput<typeof vmSchema> {
  /** Written by a vmckpt whose serving process may not be there any more. */
  readonly isOlder?: true;
  /** The verb died before it could note that the VM runs; QEMU was found by its command line. */
  readonly unattended?: true;
  /** What it has started is at work all the same, and may yet bring the VM up. */
  readonly isUnderWay?: boolean;
}

/** The generation that a VM was restored from. */
export function generationOf(record: Omit<VmRecord, 'version'>): GenerationRef {
  const { name, checkpoint = name, generation: number, generationDir: dir, generationId: id } = record;
  return { name: checkpoint, number, dir, ...(id !== undefined && { id }) };
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
