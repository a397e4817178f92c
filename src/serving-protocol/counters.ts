/** What a serving process reports about the pages that it has installed. */
import * as v from 'valibot';

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
  /** In which at least one fault waited for a source that did not have its page yet. */
  starvedMs: v.optional(v.number(), 0),
});
export type TransferCounters = Readonly<v.InferOutput<typeof countersSchema>>;
