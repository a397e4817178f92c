import { readFileSync } from 'node:fs';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { asOwner, asRoot } from '../../../src/util/rights.js';

vi.mock('node:fs', { spy: true });
const capabilities = (bits: string) => vi.mocked(readFileSync).mockReturnValue(`CapEff:\t${bits}\n`);

afterEach(() => void vi.restoreAllMocks());

describe('advice about rights', () => {
  it('sends a plain user to root', () => {
    vi.spyOn(process, 'geteuid').mockReturnValue(1000);
    expect(asRoot('Run QEMU', 'CAP_SYS_PTRACE')).toBe('Run QEMU as root');
    expect(asOwner('the user who started QEMU')).toBe('Run vmckpt as the user who started QEMU, or as root.');
  });

  it('tells root what it lacks, and never to be root', () => {
    vi.spyOn(process, 'geteuid').mockReturnValue(0);
    capabilities('000001ffffffffff');
    expect(asRoot('Run QEMU', 'CAP_SYS_PTRACE')).toBe('Run QEMU with CAP_SYS_PTRACE');
    capabilities('000001fffff7ffff');
    expect(asRoot('Run QEMU', 'CAP_SYS_PTRACE')).toBe(
      'Run QEMU with CAP_SYS_PTRACE, which root lacks in this container or namespace',
    );
    expect(asOwner('the user who started QEMU')).toBe('Run vmckpt as the user who started QEMU.');
  });
});
