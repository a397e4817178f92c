import { describe, expect, it } from 'vitest';
import { VmckptError } from '../../../src/errors.js';
import { savedStateOf } from '../../../src/save/run-states.js';

const version = (major: number) => ({ major, minor: 0, micro: 0, text: `${major}.0.0` });

function refusalOf(status: string, major: number): VmckptError {
  try {
    savedStateOf(status, version(major));
  } catch (error) {
    if (error instanceof VmckptError) return error;
  }
  throw new Error(`${status} is not refused`);
}

describe('each state of QEMU has its decision', () => {
  it.each([
    ['running', { runState: 'running' }],
    ['paused', { runState: 'paused' }],
    ['io-error', { runState: 'paused', vmState: 'io-error' }],
    ['suspended', { runState: 'running', vmState: 'suspended' }],
  ])('%s is saved as such', (status, state) => {
    expect(savedStateOf(status, version(10))).toEqual(state);
  });

  it.each([
    'debug',
    'inmigrate',
    'internal-error',
    'postmigrate',
    'prelaunch',
    'finish-migrate',
    'restore-vm',
    'save-vm',
    'shutdown',
    'watchdog',
    'guest-panicked',
    'colo',
    'preconfig',
  ])('%s is refused by name, with what helps', (status) => {
    const { code, message, hint } = refusalOf(status, 10);
    expect(code).toBe('VM_STATE');
    expect(message).toContain(`(${status})`);
    expect(hint).toMatch(/^[A-Z].*\.$/s);
  });

  it('suspended is refused where QEMU would lose it, and what nobody knows is, too', () => {
    expect(refusalOf('suspended', 8).hint).toContain('system_wakeup');
    expect(refusalOf('dreaming', 10).message).toContain('"dreaming"');
  });

  it.each(['postmigrate', 'shutdown', 'internal-error'])(
    'nobody is told to run a VM that is %s',
    (status) => {
      expect(refusalOf(status, 10).hint).not.toMatch(/(?<!system_reset and then )\bcont\b/);
    },
  );
});
