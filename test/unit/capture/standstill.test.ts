/** A pause in which somebody else has a hand, at each moment: the monitor is a script of answers and events. */
import { describe, expect, it } from 'vitest';
import { Standstill } from '../../../src/capture/standstill.js';
import type { QmpClient, QmpEvent } from '../../../src/qemu/qmp.js';

type Moment = 'stopped' | 'acting' | 'continuing';

/** What others do to the VM, and when it arrives: with the answer to stop, during the act, ahead of cont. */
function startScript(others: Partial<Record<Moment, readonly string[]>>, { isPaused = false } = {}) {
  let listener: (event: QmpEvent) => void = () => undefined;
  let status = isPaused ? 'paused' : 'running';
  const sent: string[] = [];
  const notes: string[] = [];
  const become = (next: string, event: string): void => {
    status = next;
    listener({ name: event, data: {}, timestampMs: 0 });
  };
  const disturb = (moment: Moment): void => {
    for (const command of others[moment] ?? []) apply(command);
  };
  const apply = (command: string): void => {
    if (command === 'stop' && status === 'running') become('paused', 'STOP');
    if (command === 'cont' && status !== 'running') become('running', 'RESUME');
    if (command === 'system_reset') become(status === 'running' ? status : 'prelaunch', 'RESET');
  };
  const answerStatus = async (): Promise<{ status: string }> => {
    if (sent.includes('acted')) disturb('continuing');
    return { status };
  };
  const qmp = {
    on: (_: string, added: typeof listener) => ((listener = added), () => undefined),
    query: answerStatus,
    execute: async (command: string) => {
      sent.push(command);
      apply(command);
      if (command === 'stop') disturb('stopped');
    },
  } as unknown as QmpClient;
  const standstill = new Standstill(qmp, {
    stopping: () => void notes.push('stopping'),
    running: () => void notes.push('running'),
  });
  const act = async (): Promise<string> => {
    disturb('acting');
    sent.push('acted');
    return 'taken';
  };
  return { pause: () => standstill.during(async () => undefined, act), sent, notes, status: () => status };
}

describe('a pause', () => {
  it('gives what was taken, and ends with cont', async () => {
    const { pause, sent, notes, status } = startScript({});
    expect(await pause()).toBe('taken');
    expect(sent).toEqual(['stop', 'acted', 'cont']);
    expect(notes).toEqual(['stopping', 'running']);
    expect(status()).toBe('running');
  });

  it('of a VM that was paused before leaves it paused', async () => {
    const { pause, sent } = startScript({}, { isPaused: true });
    expect(await pause()).toBe('taken');
    expect(sent).toEqual(['stop', 'acted']);
  });

  const moments: readonly Moment[] = ['stopped', 'acting', 'continuing'];

  it.each(moments)('fails when another program lets the VM run (%s)', async (moment) => {
    const { pause, notes, status } = startScript({ [moment]: ['cont'] });
    await expect(pause()).rejects.toMatchObject({ code: 'VM_STATE', message: /let the VM run/ });
    expect(status()).toBe('running');
    expect(notes).toContain('running');
  });

  it.each(moments)('fails when a VM that was paused before is let run (%s)', async (moment) => {
    const { pause } = startScript({ [moment]: ['cont'] }, { isPaused: true });
    await expect(pause()).rejects.toMatchObject({ code: 'VM_STATE', message: /let the VM run/ });
  });

  it('leaves a VM stopped that another program has let run and stopped', async () => {
    const { pause, sent, notes, status } = startScript({ acting: ['cont', 'stop'] });
    await expect(pause()).rejects.toMatchObject({ code: 'VM_STATE' });
    expect(sent).not.toContain('cont');
    expect(notes).toContain('running');
    expect(status()).toBe('paused');
  });

  it('fails when the VM was let run and stopped right before cont', async () => {
    const { pause } = startScript({ continuing: ['cont', 'stop'] });
    await expect(pause()).rejects.toMatchObject({ code: 'VM_STATE', message: /let the VM run/ });
  });

  it.each(moments)('fails when the VM is reset, which runs or is noted as to be run (%s)', async (moment) => {
    const { pause, notes, status } = startScript({ [moment]: ['system_reset'] });
    await expect(pause()).rejects.toMatchObject({ code: 'VM_STATE', message: /was reset/ });
    expect(notes.includes('running')).toBe(status() === 'running');
  });
});
