/** How tests wait: for an event, never for a time that should be long enough. */
import { poll } from '../../src/util/deadline.js';

/** Ends a test that hangs. No result depends on its length, however busy the machine is. */
export const BACKSTOP_MS = 120_000;

const ASK_EVERY_MS = 5;

/** Asks until the answer is neither undefined nor false, and returns it. @param what named where it never is */
export async function until<T>(
  what: string,
  ask: () => T | Promise<T>,
): Promise<Exclude<T, undefined | false>> {
  const answer = async () => {
    const found = await ask();
    return found === false ? undefined : (found as Exclude<T, undefined | false>);
  };
  return poll(answer, { what, timeoutMs: BACKSTOP_MS, everyMs: ASK_EVERY_MS });
}
