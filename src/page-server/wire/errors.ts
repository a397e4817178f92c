/** Errors on the wire: a stable number, and whether it makes sense to ask again. */
import * as v from 'valibot';
import { errnoOf } from '../../checkpoint/files.js';
import { VmckptError, type ErrorCode } from '../../errors.js';
import { MAX_MESSAGE_CHARS } from './limits.js';

/** A code that is not here is sent as FAILED. */
export const WIRE_ERRORS = {
  FAILED: { number: 1, retryable: false },
  SOURCE_MALFORMED: { number: 2, retryable: false },
  FORMAT_UNSUPPORTED: { number: 3, retryable: false },
  NOT_PERMITTED: { number: 4, retryable: false },
  SOURCE_UNAVAILABLE: { number: 5, retryable: true },
  STORE_LOCKED: { number: 6, retryable: true },
  BAD_NAME: { number: 7, retryable: false },
  NO_CHECKPOINT: { number: 8, retryable: false },
  NO_PACK: { number: 9, retryable: false },
  FILE_MISSING: { number: 10, retryable: false },
  NOT_A_FILE: { number: 11, retryable: false },
  GENERATION_DIFFERS: { number: 12, retryable: false },
  MANIFEST_DAMAGED: { number: 13, retryable: false },
  INDEX_DAMAGED: { number: 14, retryable: false },
  EXTENT_DAMAGED: { number: 15, retryable: false },
  DEVICE_STATE_DAMAGED: { number: 16, retryable: false },
  NO_SPACE: { number: 17, retryable: false },
  STORE_NOT_WRITABLE: { number: 18, retryable: false },
  TLS_REFUSED: { number: 19, retryable: false },
} as const satisfies Partial<Record<ErrorCode, { readonly number: number; readonly retryable: boolean }>>;
type WireCode = keyof typeof WIRE_ERRORS;

const message = v.pipe(v.string(), v.maxLength(MAX_MESSAGE_CHARS));

export const errorSchema = v.strictObject({
  number: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(0xffff)),
  retryable: v.boolean(),
  message,
  hint: v.optional(message),
});
export type WireError = v.InferOutput<typeof errorSchema>;

/** Details of a failure that is no answer stay with the server. */
export function toWire(error: unknown): WireError {
  const { code, message: text, hint } = error instanceof VmckptError ? error : fromSystem(error);
  return {
    ...WIRE_ERRORS[code in WIRE_ERRORS ? (code as WireCode) : 'FAILED'],
    message: text.slice(0, MAX_MESSAGE_CHARS),
    ...(hint !== undefined && { hint: hint.slice(0, MAX_MESSAGE_CHARS) }),
  };
}

/** Of a number that this side does not know, it is known whether to ask again. @param label of the server */
export function fromWire({ number, retryable, message: text, hint }: WireError, label: string): VmckptError {
  const codes = Object.keys(WIRE_ERRORS) as WireCode[];
  const known = codes.find((code) => WIRE_ERRORS[code].number === number);
  const code = known ?? (retryable ? 'SOURCE_UNAVAILABLE' : 'FAILED');
  return new VmckptError(code, `${label}: ${text}`, { hint });
}

function fromSystem(error: unknown): VmckptError {
  const errno = errnoOf(error);
  const code = errno === 'ENOSPC' || errno === 'EDQUOT' ? 'NO_SPACE' : 'FAILED';
  const what = errno === undefined ? 'an internal error' : `the store fails: ${errno}`;
  return new VmckptError(code, what, { cause: error });
}
