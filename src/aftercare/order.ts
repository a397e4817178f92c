/**
 * What a restored guest needs once it runs: the current time, an announcement to its network neighbours, and for a
 * clone a MAC address of its own. A separate process does this, so that nothing waits for a guest that may not
 * answer. The VM's log tells what was done.
 */
import * as v from 'valibot';

export const aftercareSchema = v.object({
  isClone: v.boolean(),
  /** The channel of the guest agent. */
  agentSocket: v.optional(v.string()),
  /**
   * Networks that the VM shares with others, with their ids if they have any. A clone starts disconnected from them.
   */
  networks: v.array(v.object({ id: v.optional(v.string()) })),
});
export type Aftercare = v.InferOutput<typeof aftercareSchema>;

/** What the user should know in advance, one sentence each. @param runs whether the VM runs at once */
export function aftercareNotes({ isClone, networks }: Aftercare, runs: boolean): string[] {
  if (!isClone) return [];
  return networks.map(({ id }) =>
    runs
      ? `The network ${id} is cut off until the guest's agent has changed the MAC address there: vmckpt logs tells.`
      : `The network ${id} is cut off, because the agent of a paused VM cannot change the MAC address there: set_link ${id} on, in its monitor, connects it.`,
  );
}
