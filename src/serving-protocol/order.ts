/**
 * What a serving process is told to do. It stands in the VM's record as it was given, so that a successor reads what the
 * first process was told, field for field.
 */
import * as v from 'valibot';
import { aftercareSchema } from '../aftercare/order.js';
import { record } from '../util/schema.js';

/** Memory that is filled directly, and where it lies in QEMU's address space. */
const memorySchema = v.object({
  /** QEMU's process. */
  pid: v.number(),
  blocks: v.pipe(v.array(v.object({ blockName: v.string(), hostAddress: v.number() })), v.minLength(1)),
});
export type DirectlyFilled = v.InferOutput<typeof memorySchema>;

const orderFields = {
  mode: v.picklist(['lazy', 'eager']),
  preempt: v.picklist(['off', 'at-once', 'after-pong']),
  /** Capabilities to switch off again once all memory is there: with them on, the next save would be refused. */
  capabilities: v.array(v.string()),
  /** What is to be filled directly; absent where all goes through the stream. */
  memory: v.optional(memorySchema),
  /** RAM block → bytes of a page of its memory, where those are larger than ours (src/pages/host-pages.ts). */
  hugePages: v.optional(record(v.number())),
  /** Begins when the VM runs, whether the verb lives or not. */
  aftercare: v.optional(aftercareSchema),
};

export const orderSchema = v.object({
  ...orderFields,
  /** Whether the VM runs as soon as it is loaded; background pages wait for that. */
  runs: v.boolean(),
  background: v.picklist(['at-once', 'when-told', 'never']),
  /** On the direct path a fault brings its page and no other: every page that is touched is asked for. */
  exactly: v.boolean(),
});
/**
 * When pages come that were not asked for. `when-told`: once the verb says `fill`, or ends. `never`: for measurements
 * on the direct path, which get the pages that are asked for and no others; the memory is never complete.
 */
export type Background = v.InferOutput<typeof orderSchema>['background'];
export type ServingOrder = v.InferOutput<typeof orderSchema>;

/** An order as older records have it: spread over the record, without what a successor does not need. */
export const olderOrderSchema = v.pipe(
  v.object(orderFields),
  v.transform((order): ServingOrder => ({ ...order, runs: true, background: 'at-once', exactly: false })),
);
