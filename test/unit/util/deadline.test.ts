import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { withDeadline } from '../../../src/util/deadline.js';

describe('withDeadline', () => {
  it('takes care of what it was given, also when it is told at once not to wait', async () => {
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => unhandled.push(reason);
    const others = process.listeners('unhandledRejection');
    process.removeAllListeners('unhandledRejection').on('unhandledRejection', note);
    try {
      const signal = AbortSignal.abort(new Error('enough'));
      const late = sleep(1).then(() => Promise.reject(new Error('too late')));
      await expect(withDeadline(late, { what: 'it', timeoutMs: 1000, signal })).rejects.toThrow('enough');
      await sleep(10);
      expect(unhandled).toEqual([]);
    } finally {
      process.removeListener('unhandledRejection', note);
      for (const listener of others) process.on('unhandledRejection', listener);
    }
  });
});
