/** Bounded waits: every wait of vmckpt has a deadline. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VmckptError } from '../errors.js';
import { debug } from './debug.js';

export interface WaitOptions {
  /** What the caller waits for, as it appears in the message: "QEMU to resume". */
  readonly what: string;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** The promise's value; TIMEOUT when it does not settle in time; the signal's reason when that comes first. */
export async function withDeadline<T>(
  promise: Promise<T>,
  { what, timeoutMs, signal }: WaitOptions,
): Promise<T> {
  promise.catch(() => undefined); // it may reject after the deadline
  signal?.throwIfAborted();
  const timer = new AbortController();
  const late = sleep(timeoutMs, undefined, { signal: timer.signal }).then(() => {
    throw tooLate(what, timeoutMs);
  });
  late.catch(() => undefined);
  let onAbort: (() => void) | undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(signal?.reason as Error);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([promise, late, aborted]);
  } finally {
    timer.abort();
    if (onAbort !== undefined) signal?.removeEventListener('abort', onAbort);
  }
}

/** Asks repeatedly until there is an answer. @throws VmckptError TIMEOUT */
export async function poll<T>(
  ask: () => T | undefined | Promise<T | undefined>,
  { what, timeoutMs, signal, everyMs }: WaitOptions & { readonly everyMs: number },
): Promise<T> {
  const endMs = performance.now() + timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (performance.now() > endMs) throw tooLate(what, timeoutMs);
    await sleep(everyMs);
  }
}

function tooLate(what: string, timeoutMs: number): VmckptError {
  const message = `waited ${timeoutMs} ms for ${what}`;
  debug('deadline', () => message);
  return new VmckptError('TIMEOUT', message);
}
