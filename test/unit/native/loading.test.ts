import { afterEach, expect, test, vi } from 'vitest';

afterEach(() => {
  vi.doUnmock('../../../src/util/package-paths.js');
  vi.resetModules();
});

test('a missing addon is an error at first use, not at import, and says how to build it', async () => {
  vi.resetModules();
  vi.doMock('../../../src/util/package-paths.js', () => ({ PACKAGE_ROOT: '/nonexistent' }));
  const { xxh3 } = await import('../../../src/native/index.js');
  expect(() => xxh3(new Uint8Array(1))).toThrow(
    expect.objectContaining({ code: 'NATIVE_MISSING', hint: 'npm run build:native' }),
  );
});
