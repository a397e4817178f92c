/** What a serving process is told to do. */
import * as v from 'valibot';
import { aftercareSchema } from '../aftercare/order.js';
import { record } from '../util/schema.js';

/** Memory that is filled directly, and where it lies in QEMU's address space. */
export const memorySchema = v.object({
  /** QEMU's. */
  pid: v.number(),
  blocks: v.pipe(v.array(v.object({ blockName: v.string(), hostAddress: v.number() })), v.minLength(1)),
});
export type DirectlyFilled = v.InferOutput<typeof memorySchema>;

/** RAM block → bytes of a page of its memory, where those are larger than ours (src/pages/host-pages.ts). */
export const hugePagesSchema = record(v.number());

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
