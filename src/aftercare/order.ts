/**
 * What a restored guest needs once it runs: the time, neighbours who know where it is now, and as a clone a MAC address
 * of its own. A process of its own sees to it, so that nothing waits for a guest that may not answer; what it has
 * done is in the VM's log.
 */
import * as v from 'valibot';

export const aftercareSchema = v.object({
  isClone: v.boolean(),
  /** The channel of the guest's agent. */
  agentSocket: v.optional(v.string()),
  /** Networks that it shares with others, by id where it has one. A clone is cut off from them at first. */
  networks: v.array(v.object({ id: v.optional(v.string()) })),
});
export type Aftercare = v.InferOutput<typeof aftercareSchema>;

/** What the user should know about it beforehand, a sentence each. @param runs whether the VM does so at once */
export function aftercareNotes({ isClone, networks }: Aftercare, runs: boolean): string[] {
  if (!isClone) return [];
  return networks.map(({ id }) =>
    runs
      ? `The network ${id} is cut off until the guest's agent has changed the MAC address there: vmckpt logs tells.`
      : `The network ${id} is cut off, because the agent of a paused VM cannot change the MAC address there: set_link ${id} on, in its monitor, connects it.`,
  );
}
