/** A VM as somebody starts it by hand, with the console on the terminal, and not for vmckpt. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { examineGuest } from '../support/checkpointing.js';
import { guestFile, qemuBinary } from '../support/cache.js';
import { startCli } from '../support/command.js';
import { Console } from '../support/console.js';
import { killAndWait, killProcessesOf, spawnTracked } from '../support/processes.js';
import { until } from '../support/until.js';
import { suiteDirectory } from '../support/vitest.js';

describe('a VM that was started by hand with -nographic', () => {
  const dir = suiteDirectory();
  const runtimeDir = path.join(dir, 'run');
  afterAll(() => killProcessesOf(runtimeDir));

  it('comes back whole, its console on a socket', async () => {
    process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    process.env['VMCKPT_STORE'] = path.join(dir, 'store');
    const qmp = path.join(dir, 'qmp.sock');
    const terminal = path.join(dir, 'terminal');
    const argv = [
      ...[qemuBinary('system'), '-M', 'q35', '-accel', 'tcg', '-m', '256', '-nographic'],
      ...['-kernel', guestFile('vmlinuz'), '-initrd', guestFile('initramfs.cpio')],
      ...[
        '-append',
        'console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check vmckpt.fill_mb=96',
      ],
      ...['-drive', `file=${guestFile('disk.img')},format=raw,if=virtio,readonly=on`],
      ...['-qmp', `unix:${qmp},server=on,wait=off`],
    ];
    const original = spawnTracked(argv, terminal);
    const said = (pattern: RegExp) => pattern.exec(readFileSync(terminal, 'latin1')) ?? undefined;
    await until('the guest', () => said(/^GUEST READY/m));
    const [, n] = await until('its heart', () => said(/^HB n=(\d+)/m));

    expect(await startCli(['save', `qmp:${qmp}`, 'web']).ended).toMatchObject({ code: 0 });
    await killAndWait(original.pid);
    const restored = await startCli(['--json', 'restore', '--qemu', argv[0]!, 'web']).ended;
    expect(restored).toMatchObject({ code: 0, json: { consoleSocket: expect.any(String) as string } });
    const { consoleSocket } = restored.json as { consoleSocket: string };
    const console = await Console.connect(consoleSocket);
    const before = { n: Number(n), rounds: 0, bad: 0, guestMs: 0, atMs: 0 };
    expect(await examineGuest(console, before)).toEqual({
      memory: true,
      disk: true,
      tmpfs: true,
      counter: true,
    });
    console.close();
    expect(await startCli(['stop', 'web']).ended).toMatchObject({ code: 0 });
  });
});
