/**
 * VMCKPT_DEBUG (docs/debugging.md): lines on standard error about what happens inside. Every process that vmckpt starts
 * inherits the variable; native/core/debug.h does the same in C++. If it is unset, a call costs one comparison.
 */
import { writeSync } from 'node:fs';

type Area =
  | 'verb'
  | 'qmp'
  | 'launch'
  | 'save'
  | 'restore'
  | 'serving'
  | 'receiver'
  | 'aftercare'
  | 'fetcher'
  | 'worker'
  | 'deadline';

const STDERR_FD = 2;
const MAX_TEXT_LENGTH = 400;
/** Keys of JSON and options of QEMU's command line whose values are secret. */
const SECRET_KEY = /pass|secret|token|^data$/i;
const SECRET_OPTION = /\b(data|passwd|password|password-secret|token)=(?:[^,]|,,)*/gi;

const areas = (process.env['VMCKPT_DEBUG'] ?? '').split(',').filter((area) => area !== '' && area !== '0');

/** Whether this area is being debugged. */
export function isDebugging(area: Area): boolean {
  return areas.length > 0 && (areas.includes('1') || areas.includes('all') || areas.includes(area));
}

/** Prints `time pid area: text`. Calls `text` only if the area is being debugged. */
export function debug(area: Area, text: () => string): void {
  if (isDebugging(area)) print(`${new Date().toISOString()} ${process.pid} ${area}: ${text()}\n`);
}

/** @returns a function that prints a step, with the milliseconds since the previous step and since this call */
export function debugSteps(area: Area): (step: string) => void {
  const startMs = performance.now();
  let lastMs = startMs;
  return (step) => {
    const nowMs = performance.now();
    debug(
      area,
      () => `${step} (${(nowMs - lastMs).toFixed(1)} ms, ${(nowMs - startMs).toFixed(1)} ms in all)`,
    );
    lastMs = nowMs;
  };
}

/** JSON of limited length, without what looks like a secret. */
export function elided(value: unknown): string {
  const json = JSON.stringify(value, (key, part: unknown) =>
    SECRET_KEY.test(key) && typeof part === 'string' ? '…' : part,
  );
  if (json === undefined || json.length <= MAX_TEXT_LENGTH) return json ?? '';
  return `${json.slice(0, MAX_TEXT_LENGTH)}… (${json.length} characters)`;
}

/** The answer to a query for one property (`qom-get`). */
export function elidedAnswer(answer: unknown, asked: { readonly property?: string } = {}): string {
  return SECRET_KEY.test(asked.property ?? '') ? '…' : elided(answer);
}

/** A command line as one text, without the values of QEMU's secrets. */
export function elidedCommand(argv: readonly string[]): string {
  return argv.map((word) => JSON.stringify(word.replace(SECRET_OPTION, '$1=…'))).join(' ');
}

function print(line: string): void {
  try {
    writeSync(STDERR_FD, line);
  } catch {
    // Losing lines to a full or closed pipe is better than delaying the VM's memory.
  }
}
