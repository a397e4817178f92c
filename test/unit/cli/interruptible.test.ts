import type { EventEmitter } from 'node:events';
import { describe, expect, it, onTestFinished } from 'vitest';
import { interruptible } from '../../../src/cli/verb.js';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** Signals look to Node like any other event. */
const EVENTS: readonly string[] = [...SIGNALS, 'exit'];
const emitter: EventEmitter = process;

/** Those of the test runner are spared. */
function begin() {
  const before = EVENTS.map((name) => emitter.listeners(name));
  const said: string[] = [];
  const interruption = interruptible({ message: (text) => said.push(text) }, 'Interrupted: undoing it.');
  onTestFinished(() => {
    EVENTS.forEach((name, index) => {
      for (const listener of emitter.listeners(name))
        if (!before[index]!.includes(listener)) emitter.off(name, listener as () => void);
    });
  });
  const interrupt = (name: (typeof SIGNALS)[number] = 'SIGINT') => {
    for (const listener of process.listeners(name))
      if (!before[SIGNALS.indexOf(name)]!.includes(listener)) (listener as () => void)();
  };
  return { ...interruption, said, interrupt };
}

describe('an interrupt', () => {
  it.each(SIGNALS)('ends the work, and says so (%s)', (name) => {
    const { signal, said, interrupt } = begin();
    interrupt(name);
    expect(signal.reason).toMatchObject({ code: 'INTERRUPTED' });
    expect(said).toEqual(['Interrupted: undoing it.']);
  });

  it('promises nothing when the work is done', () => {
    const { signal, tooLate, said, interrupt } = begin();
    tooLate();
    interrupt();
    expect(signal.aborted).toBe(false);
    expect(said).toEqual([expect.stringContaining('Too late')]);
  });
});
