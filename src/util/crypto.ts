/** node:crypto, loaded when it is first used: it takes 3 ms, which the start of a serving process does not have. */
import type * as Crypto from 'node:crypto';

export function crypto(): typeof Crypto {
  return process.getBuiltinModule('node:crypto');
}
