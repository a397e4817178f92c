/** node:crypto, loaded on first use: loading takes 3 ms, too long for the start of a serving process. */
import type * as Crypto from 'node:crypto';

export function crypto(): typeof Crypto {
  return process.getBuiltinModule('node:crypto');
}
