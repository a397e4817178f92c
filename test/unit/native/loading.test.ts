import { afterEach, expect, test, vi } from 'vitest';

afterEach(() => {
  vi.doUnmock('../../../src/util/package-paths.js');
  vi.unstubAllEnvs();
  vi.resetModules();
});

/** The typed face, loaded once more. */
async function load() {
  vi.resetModules();
  return import('../../../src/native/index.js');
}

test('a missing addon is an error at the use of what only it can do, not at import', async () => {
  vi.doMock('../../../src/util/package-paths.js', () => ({ PACKAGE_ROOT: '/nonexistent' }));
  const { addonProblem, hasAddon, rescueUserfaultfd, xxh3 } = await load();
  expect(hasAddon()).toBe(false);
  expect(addonProblem()).toContain('/nonexistent/build/Release');
  expect(() => rescueUserfaultfd(1)).toThrow(expect.objectContaining({ code: 'NATIVE_MISSING' }));
  expect(xxh3(new Uint8Array(0))).toBe(0x2d06800538d394c2n);
});

test('VMCKPT_NATIVE=none rules it out', async () => {
  vi.stubEnv('VMCKPT_NATIVE', 'none');
  const { addonRemedy, hasAddon, pidfdOpen } = await load();
  expect(hasAddon()).toBe(false);
  expect(() => pidfdOpen(1)).toThrow(
    expect.objectContaining({ code: 'NATIVE_MISSING', hint: `To have it: ${addonRemedy()}.` }),
  );
  expect(addonRemedy()).toBe('unset VMCKPT_NATIVE');
});
