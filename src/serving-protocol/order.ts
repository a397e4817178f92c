/**
 * What a serving process is told to do. The VM's record holds the order as it was given, so that a successor reads
 * exactly what the first process was told.
 */
import * as v from 'valibot';
import { aftercareSchema } from '../aftercare/order.js';
import { record } from '../util/schema.js';

/** Memory that is filled directly, and where it is in QEMU's address space. */
const memorySchema = v.object({
  /** QEMU's process. */
  pid: v.number(),
  blocks: v.pipe(v.array(v.object({ blockName: v.string(), hostAddress: v.number() })), v.minLength(1)),
});
export type DirectlyFilled = v.InferOutput<typeof memorySchema>;

const orderFields = {
  mode: v.picklist(['lazy', 'eager']),
  preempt: v.picklist(['off', 'at-once', 'after-pong']),
  /** Capabilities to switch off once all memory is in place: QEMU would refuse the next save with them on. */
  capabilities: v.array(v.string()),
  /** What to fill directly; absent when everything goes through the stream. */
  memory: v.optional(memorySchema),
  /** RAM block → page size in bytes, if larger than 4 KiB (src/pages/host-pages.ts). */
  hugePages: v.optional(record(v.number())),
  /** Begins when the VM runs, even if the verb has ended. */
  aftercare: v.optional(aftercareSchema),
};

export const orderSchema = v.object({
  ...orderFields,
  /** Whether the VM runs as soon as it is loaded; background pages wait for that. */
  runs: v.boolean(),
  background: v.picklist(['at-once', 'when-told', 'never']),
  /** On the direct path, a fault installs its own page only, so that every touched page is requested. */
  exactly: v.boolean(),
});
/**
 * When pages come that nothing requested. `when-told`: once the verb sends `fill`, or ends. `never`: for measurements
 * on the direct path, which load only requested pages; the memory is never complete.
 */
export type Background = v.InferOutput<typeof orderSchema>['background'];
export type ServingOrder = v.InferOutput<typeof orderSchema>;

/** An order in an older record: spread over the record, without what a successor does not need. */
export const olderOrderSchema = v.pipe(
  v.object(orderFields),
  v.transform((order): ServingOrder => ({ ...order, runs: true, background: 'at-once', exactly: false })),
);
