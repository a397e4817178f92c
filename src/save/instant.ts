/**
 * The instant that a save is of. The VM stands still, and what belongs to it besides memory and devices, such as a
 * snapshot of its disks, is captured by participants. A save that one of them fails at fails, and gives the VM back.
 */
export interface InstantParticipant {
  /** Before the VM stands still: what takes long. */
  readonly prepare?: () => Promise<void>;
  /** While the VM stands still. */
  readonly capture: () => Promise<void>;
  /** After all of that, also of a save that failed: the VM runs again, or is about to. */
  readonly release?: () => Promise<void>;
}

export class Instant {
  readonly #participants: readonly InstantParticipant[];

  constructor(participants: readonly InstantParticipant[] = []) {
    this.#participants = participants;
  }

  async prepare(): Promise<void> {
    for (const { prepare } of this.#participants) await prepare?.();
  }

  /** Called where the VM stands still; side by side, because it does so for as long as the slowest takes. */
  async capture(): Promise<void> {
    await Promise.all(this.#participants.map(({ capture }) => capture()));
  }

  async release(): Promise<void> {
    for (const { release } of this.#participants) await release?.();
  }
}
