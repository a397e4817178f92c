/**
 * 32 random bits, for identifiers, not for secrets. node:crypto takes 3 ms to load, too long for the start of a serving
 * process.
 */
export function randomU32(): number {
  return Math.floor(Math.random() * 2 ** 32);
}
