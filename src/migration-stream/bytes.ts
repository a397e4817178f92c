/**
 * Big-endian reads that neither allocate nor check: the caller has made sure that the bytes are there.
 */
import { VmckptError } from '../errors.js';

export function be16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

export function be32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** Exact up to 2^53; larger values are rounded but stay larger, so that a bound check still catches them. */
export function be64(bytes: Uint8Array, at: number): number {
  return be32(bytes, at) * 2 ** 32 + be32(bytes, at + 4);
}

/** Names on the wire are bytes; latin1 keeps every one of them. */
export function latin1(bytes: Uint8Array, at: number, byteLength: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + byteLength));
}

export interface Malformation {
  readonly where: 'migration stream' | 'return path';
  /** Offset from the first byte that the parser was given. */
  readonly offset: number;
  readonly expected: string;
  readonly actual: string;
  readonly hint?: string | undefined;
}

export function malformed({ where, offset, expected, actual, hint }: Malformation): VmckptError {
  return new VmckptError(
    'STREAM_MALFORMED',
    `${where}, byte ${offset}: expected ${expected}, found ${actual}`,
    { hint },
  );
}

export function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
