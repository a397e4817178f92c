import { availableParallelism } from 'node:os';
import path from 'node:path';
import { defineConfig } from 'vitest/config';

/** Assert how memory arrives, or how the host's page cache changes: neighbours would be part of what they see. */
const ALONE = [
  'test/integration/bench-resume.test.ts',
  'test/integration/bench-save.test.ts',
  'test/integration/learn.test.ts',
  'test/integration/prefetch.test.ts',
  'test/unit/bench/page-cache.test.ts',
];
/** Each runs a QEMU and what serves it, and waits for them much of the time. */
const REAL_VMS = 'test/{integration,fault,cli}/**/*.test.ts';
const workers = Math.max(2, Math.min(4, availableParallelism()));

/** One group after the other; each file has folders, sockets and ports of its own. */
export default defineConfig({
  test: {
    testTimeout: 180_000,
    hookTimeout: 180_000,
    expect: { poll: { timeout: 120_000 } },
    // Unit tests, too, run what was built: the addon, workers and helper processes.
    globalSetup: 'test/support/built-sources.ts',
    // Where saves keep the user's key.
    env: { XDG_STATE_HOME: path.resolve('.cache/state') },
    projects: [
      {
        extends: true,
        test: {
          name: 'code',
          include: ['test/**/*.test.ts'],
          exclude: [REAL_VMS, ...ALONE],
          maxWorkers: workers,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'alone',
          include: ALONE,
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'vms',
          include: [REAL_VMS],
          exclude: ALONE,
          maxWorkers: workers,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
