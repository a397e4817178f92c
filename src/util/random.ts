/**
 * 32 random bits, to tell things apart and not to keep secrets: node:crypto takes 3 ms to load, which the start of a
 * serving process does not have.
 */
export function randomU32(): number {
  return Math.floor(Math.random() * 2 ** 32);
}
