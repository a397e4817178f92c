import { describe } from 'vitest';
import { newUntracked, openSoftDirty, openWriteProtection } from '../../../src/capture/open-tracker.js';
import type { TrackerOptions, WriteTracker } from '../../../src/capture/tracker.js';
import { softDirtyProblem, writeProtectionProblem } from '../../../src/native/index.js';
import { describeWriteTracker, type WrittenMemory } from '../../contracts/write-tracker.js';

/** What is there, or the test's failure. */
async function opened(options: TrackerOptions): Promise<WriteTracker> {
  const tracker = await openWriteProtection(options);
  if (typeof tracker === 'string') throw new Error(tracker);
  return tracker;
}

describe.skipIf(writeProtectionProblem() !== undefined)('write protection', () => {
  for (const memory of ['small', 'huge', 'file'] as const satisfies readonly WrittenMemory[])
    describeWriteTracker(`of ${memory} memory`, { memory, open: opened, isExact: true });
});

describe.skipIf(softDirtyProblem() !== undefined)('soft-dirty bits', () => {
  const open = async (options: TrackerOptions): Promise<WriteTracker> => {
    const tracker = openSoftDirty(options, 'no better one was tried');
    if (typeof tracker === 'string') throw new Error(tracker);
    return tracker;
  };
  describeWriteTracker('of small memory', { memory: 'small', open, isExact: true });
  describeWriteTracker('of huge memory', { memory: 'huge', open, isExact: false });
});

describeWriteTracker('no tracker', {
  memory: 'small',
  open: async (options) => newUntracked(options, 'none was wanted'),
  isExact: false,
});
