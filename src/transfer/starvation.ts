/** For how long a VM has waited for a source that did not have what was asked for. */
export class Starvation {
  #waiting = 0;
  #sinceMs = 0;
  #endedMs = 0;

  /** Whether at least one answer waits. */
  get isStarving(): boolean {
    return this.#waiting > 0;
  }

  /** In which at least one did, until now. */
  get totalMs(): number {
    return this.#endedMs + (this.isStarving ? performance.now() - this.#sinceMs : 0);
  }

  /** `answer` waits for the source, and for nothing else. */
  async during<T>(answer: Promise<T>): Promise<T> {
    if (this.#waiting++ === 0) this.#sinceMs = performance.now();
    try {
      return await answer;
    } finally {
      if (--this.#waiting === 0) this.#endedMs += performance.now() - this.#sinceMs;
    }
  }
}
