/** A QEMU without capabilities, which may not use userfaultfd: it refuses the default ways of saving and restoring. */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { readMigrationSettings } from '../../src/qemu/migration-control.js';
import { isRoot, WITHOUT_CAPABILITIES } from '../support/cli.js';
import { startCli } from '../support/command.js';
import { killProcessesOf } from '../support/processes.js';
import { suiteDirectory } from '../support/vitest.js';
import { connectWhenReady, endProcess, QEMU, TINY } from './qemu-helper.js';

/** As is by default: it keeps captures away, and changes nothing. */
const UNCAPTURED = ['-global', 'migration.send-configuration=on'];
/** Where nobody needs a right for it, nothing is refused. */
const free = readFileSync('/proc/sys/vm/unprivileged_userfaultfd', 'latin1').trim() === '1';

describe.runIf(isRoot && !free)('a save that QEMU refuses (needs root to give up its rights)', () => {
  const dir = suiteDirectory();
  const runtimeDir = path.join(dir, 'run');
  const socket = path.join(dir, 'qmp.sock');
  const [program, ...rights] = WITHOUT_CAPABILITIES;
  const qemu = spawn(
    program,
    [
      ...rights,
      QEMU,
      ...TINY,
      ...UNCAPTURED,
      '-qmp',
      `unix:${socket},server=on,wait=off`,
      '-monitor',
      'stdio',
    ],
    {
      stdio: 'ignore',
    },
  );
  afterAll(() => endProcess(qemu));

  const save = (...flags: string[]) =>
    startCli(['--json', '--store', path.join(dir, 'store'), 'save', ...flags, `qmp:${socket}`, 'tiny'], {
      env: { VMCKPT_RUNTIME_DIR: runtimeDir },
    }).ended;

  function expectSaidOnce(text: string): void {
    const lines = text.split('\n');
    expect(lines).toEqual([...new Set(lines)]);
  }

  async function ask(command: string, args: Record<string, unknown>): Promise<void> {
    const qmp = await connectWhenReady(socket);
    await qmp.execute(command, args);
    await qmp.close();
  }

  async function observe() {
    const qmp = await connectWhenReady(socket);
    const settings = await readMigrationSettings(qmp);
    const { status } = (await qmp.execute('query-status')) as { status: string };
    await qmp.close();
    return { settings, status };
  }

  it('saves and restores by other ways where none was asked for, and says so', async () => {
    const before = await observe();
    const backend = { type: 'null', data: {} };
    await ask('chardev-add', { id: 'added', backend });
    const saved = await save();
    await ask('chardev-remove', { id: 'added' });
    expect(saved).toMatchObject({ code: 0, json: { pauseMs: expect.any(Number) as number } });
    expect(saved.stderr).toContain('QEMU may not use userfaultfd: the VM is paused while it is saved');
    expectSaidOnce(saved.stderr);
    expect(saved.stderr).toContain(String.raw`the character device \"added\" was added`);
    expect(await observe()).toEqual(before);

    const restore = (...flags: string[]) =>
      startCli(['--json', '--store', path.join(dir, 'store'), 'restore', '--as', 'clone', ...flags, 'tiny'], {
        env: { VMCKPT_RUNTIME_DIR: runtimeDir },
        wrapper: WITHOUT_CAPABILITIES,
      }).ended;
    onTestFinished(() => killProcessesOf(runtimeDir));
    expect(await restore('--mode', 'prefetch')).toMatchObject({
      code: 12,
      json: { error: { code: 'NOT_PERMITTED', hint: expect.stringContaining('--mode eager') as string } },
    });
    const restored = await restore();
    expect(restored).toMatchObject({ code: 0, json: { mode: 'eager', vmName: 'clone' } });
    expect(restored.stderr).toContain('QEMU may not use userfaultfd: the VM runs when all of its memory');
    expectSaidOnce(restored.stderr);
    expect(restored.stderr).toContain('console.sock');
  });

  it('is of no use to learning, which has no other mode', async () => {
    expect(await save()).toMatchObject({ code: 0 });
    const wrapper = ['setpriv', '--bounding-set=-sys_ptrace', '--inh-caps=-sys_ptrace', '--'];
    const verb = ['--json', '--store', path.join(dir, 'store'), 'learn', 'tiny'];
    const learned = await startCli(verb, { env: { VMCKPT_RUNTIME_DIR: runtimeDir }, wrapper }).ended;
    const hint = expect.stringMatching(/comes on demand\. Run vmckpt with CAP_SYS_PTRACE/) as string;
    expect(learned).toMatchObject({ code: 12, json: { error: { code: 'NOT_PERMITTED', hint } } });
    expect(learned.stderr).not.toContain('--mode eager');
  });

  it('leaves nothing to be put right, so that a VM that is paused then stays paused', async () => {
    const before = await observe();
    expect(await save('--live', 'background-snapshot')).toMatchObject({
      code: 12,
      json: { error: { code: 'NOT_PERMITTED', hint: expect.stringContaining('--stop') as string } },
    });
    expect(await observe()).toEqual(before);
    const saves = path.join(runtimeDir, 'saves');
    expect(existsSync(saves) ? readdirSync(saves) : []).toEqual([]);

    const qmp = await connectWhenReady(socket);
    await qmp.execute('stop');
    await qmp.close();
    expect(await save()).toMatchObject({ code: 0, json: { pauseMs: 0 } });
    expect((await observe()).status).not.toBe('running');
  });
});
