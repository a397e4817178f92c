/** The records of a restored VM: `vm.json`, written by the verb, and `transfer.json`, by the serving process. */
import * as v from 'valibot';
import { olderOrderSchema, orderSchema } from '../serving-protocol/order.js';
import { elsewhereSchema, type GenerationRef } from '../store/generation-ref.js';
import { finite, integer, record } from '../util/schema.js';

const processSchema = v.object({ pid: integer, startTicks: v.number() });

export const RESTORE_MODES = ['prefetch', 'lazy', 'eager', 'map'] as const;
export type RestoreMode = (typeof RESTORE_MODES)[number];

/** Fields that every version of `vm.json` has. */
const vmFields = {
  /** The VM's name. */
  name: v.string(),
  /** The checkpoint's name, if it is a different one. */
  checkpoint: v.optional(v.string()),
  generation: integer,
  generationDir: v.string(),
  /** `id` of the manifest. */
  generationId: v.optional(v.string()),
  /** The stores that it arrives from. */
  elsewhere: v.optional(elsewhereSchema),
  mode: v.picklist(RESTORE_MODES),
  ramBytes: v.number(),
  restoredAt: v.string(),
  /** The verb that is restoring, or has restored, the VM. */
  verb: processSchema,
  /** QEMU's parent, which starts another serving process when one dies. */
  keeper: v.optional(processSchema),
  qemu: v.optional(processSchema),
  /** The user's own QMP socket if the command line has one, otherwise vmckpt's. */
  qmpSocket: v.string(),
  consoleSocket: v.optional(v.string()),
};

export const RECORD_VERSION = 2 as const;

export const vmSchema = v.object({
  ...vmFields,
  version: v.literal(RECORD_VERSION),
  /** What the serving process was told. Absent until then, and when the VM's memory is a mapped file. */
  order: v.optional(orderSchema),
});

/** The record as vmckpt wrote it before it had a version; VMs from that time may still run. */
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
  /** Written by an older vmckpt, whose serving process may no longer be installed. */
  readonly isOlder?: true;
  /** The verb died before it could record that the VM runs; QEMU was found by its command line. */
  readonly unattended?: true;
  /** What the verb started is still at work, and may yet bring the VM up. */
  readonly isUnderWay?: boolean;
}

/** The generation that a VM was restored from. */
export function generationOf(record: Omit<VmRecord, 'version'>): GenerationRef {
  const { name, checkpoint = name, generation: number, generationDir: dir, generationId: id } = record;
  const { elsewhere } = record;
  return { name: checkpoint, number, dir, ...(id !== undefined && { id }), ...(elsewhere && { elsewhere }) };
}

export const transferSchema = v.object({
  process: processSchema,
  status: v.picklist(['serving', 'complete', 'failed', 'damaged']),
  /** QEMU has the machine, and its memory is served on demand: the VM survives the end of this process. */
  loaded: v.optional(v.boolean()),
  caredFor: v.optional(v.boolean()),
  error: v.optional(v.object({ code: v.string(), message: v.string() })),
  /** The monitor connection that QEMU keeps for a successor. */
  held: v.optional(v.object({ pid: v.number(), inode: v.number() })),
  /** A fault waits for a source that does not have its page yet. */
  waitsForSource: v.optional(v.boolean()),
  counters: v.optional(record(finite)),
  /** When the last page was in place: wall clock, ms. */
  completeAtMs: v.optional(v.number()),
});
export interface TransferRecord extends v.InferOutput<typeof transferSchema> {
  /** When it was last written, or touched: wall clock, ms. */
  readonly notedAtMs?: number | undefined;
}
