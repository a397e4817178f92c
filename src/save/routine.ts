/**
 * A tracked VM may be saved every second. What hardly changes from one of its generations to the next, and takes long to
 * find out, is taken over from the generation before, and found out again in every sixteenth.
 */
const ANEW_EVERY = 16;

export function isRoutine(generation: number): boolean {
  return generation % ANEW_EVERY !== 0;
}
