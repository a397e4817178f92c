/**
 * A userfaultfd of a QEMU process, made in its name by the native `vmckpt-tracker` (native/core/take_userfaultfd.h says how,
 * and why QEMU is whole whatever happens to that program).
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import * as v from 'valibot';
import { makeSocketPair, receiveFds, TRACKER_PATH } from '../native/index.js';
import { debug } from '../util/debug.js';
import { parseJson } from '../util/json-file.js';

/** It gives up by itself after two seconds. */
const TIMEOUT_MS = 10_000;
const MAX_LINE_BYTES = 4096;

const Refusal = v.object({ reason: v.string(), text: v.string() });

export interface TakeOptions {
  readonly pid: number;
  readonly isSandboxed?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** @returns the descriptor, or why there is none, as a clause. @throws the signal's reason */
export async function takeUserfaultfd({ signal, ...of }: TakeOptions): Promise<number | string> {
  const [ours, theirs] = makeSocketPair();
  const program = startTracker(of, theirs);
  closeSync(theirs);
  // Until then it has the descriptor, too. Rejects when it cannot be started.
  const ended = once(program, 'exit');
  try {
    const limits = { maxBytes: MAX_LINE_BYTES, maxFds: 1, timeoutMs: TIMEOUT_MS, signal };
    const [{ payload, fds }] = await Promise.all([receiveFds(ours, limits), ended]);
    debug('save', () => `vmckpt-tracker: ${payload.toString().trim()}`);
    return fds[0] ?? refusalOf(payload.toString());
  } catch (error) {
    signal?.throwIfAborted();
    return `vmckpt-tracker failed: ${(error as Error).message}`;
  } finally {
    closeSync(ours);
  }
}

function startTracker({ pid, isSandboxed = false }: Omit<TakeOptions, 'signal'>, socket: number) {
  const args = [`${pid}`, ...(isSandboxed ? ['--sandboxed'] : [])];
  return spawn(TRACKER_PATH, args, { stdio: ['ignore', 'ignore', 'inherit', socket] });
}

/** Killed, it says nothing. */
function refusalOf(line: string): string {
  return parseJson(Refusal, line)?.text ?? 'vmckpt-tracker has died';
}
