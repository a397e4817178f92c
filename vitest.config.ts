import path from 'node:path';
import { defineConfig } from 'vitest/config';

/** Integration and fault tests run real QEMUs on a small machine: one file at a time. */
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 180_000,
    hookTimeout: 180_000,
    fileParallelism: false,
    // Where saves keep the user's key.
    env: { XDG_STATE_HOME: path.resolve('.cache/state') },
  },
});
