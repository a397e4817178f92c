/** VMs of other users, and users who may not trace a VM: it is captured where that is allowed, and otherwise saved by QEMU. */
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { isRoot } from '../support/cli.js';
import { startCli, type CliResult } from '../support/command.js';
import { settingsOf, storeProblems } from '../support/faults.js';
import { userfaultfdsOf } from '../support/traced.js';
import { startTinyVm, type TinyVm } from '../support/tiny-vm.js';
import { describeOnEachQemu, suiteDirectory, skipWithoutTracker } from '../support/vitest.js';

skipWithoutTracker();

const USER = 4242;
const AS_USER = ['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups', '--'];
const DENYING_SOURCE = path.join(import.meta.dirname, '../support/deny-pidfd-getfd.c');
const AS_ROOT: readonly string[] = [];
const UNTRACING = ['setpriv', '--bounding-set=-sys_ptrace', '--inh-caps=-sys_ptrace', '--'];

describe.runIf(isRoot)('the right to trace (needs root to give it up)', () => {
  describeOnEachQemu('a VM', (qemu) => {
    const dir = suiteDirectory();

    interface OwnVm extends TinyVm {
      /** The user may write to it. */
      readonly folder: string;
    }

    async function start(wrapper: readonly string[]): Promise<OwnVm> {
      chmodSync(dir, 0o711);
      const folder = mkdtempSync(path.join(dir, 'vm-'));
      chownSync(folder, USER, USER);
      const vm = startTinyVm({ qemu, dir: folder, wrapper });
      await vm.untilFirmware();
      chmodSync(vm.qmpSocket, 0o777);
      return { ...vm, folder };
    }

    function save(
      { qmpSocket, folder }: OwnVm,
      { as, live = [] }: { readonly as: readonly string[]; readonly live?: readonly string[] },
    ): Promise<CliResult> {
      const own = path.join(folder, as === AS_USER ? 'user' : 'root');
      const env = { HOME: own, VMCKPT_RUNTIME_DIR: `${own}-run`, VMCKPT_STORE: own };
      return startCli(['--json', 'save', ...live, `qmp:${qmpSocket}`, 'tiny'], { wrapper: as, env }).ended;
    }

    it.each([
      ['root saves the VM of another user', AS_USER, AS_ROOT],
      ['a user saves a VM of their own', AS_USER, AS_USER],
    ])('is captured when %s', async (_title, owner, as) => {
      const vm = await start(owner);
      expect(await save(vm, { as })).toMatchObject({ code: 0, json: { method: 'capture' } });
      expect(await vm.status()).toBe('running');
    });

    it('is saved by QEMU where vmckpt may not trace, and says why', async () => {
      const denying = path.join(dir, 'deny-pidfd-getfd');
      execFileSync('gcc', ['-Wall', '-Wextra', '-Werror', '-o', denying, DENYING_SOURCE]);
      const vm = await start(AS_ROOT);
      const settings = await settingsOf(vm.qmpSocket);
      expect(await save(vm, { as: [denying], live: ['--live', 'capture'] })).toMatchObject({
        code: 14,
        json: {
          error: { code: 'CAPTURE_REFUSED', message: expect.stringContaining('may not trace it') as string },
        },
      });
      const saved = await save(vm, { as: [denying] });
      expect(saved).toMatchObject({ code: 0, json: { method: 'background-snapshot' } });
      expect(saved.stderr).toMatch(/QEMU’s own migration saves it, because .*this user may not trace it/);
      expect(await settingsOf(vm.qmpSocket)).toEqual(settings);
      expect(userfaultfdsOf(vm.pid)).toEqual([]);
      expect(await vm.status()).toBe('running');
      expect(await storeProblems(path.join(vm.folder, 'root'))).toEqual([]);
    });

    it.each([
      ['root without CAP_SYS_PTRACE, which it has itself', UNTRACING],
      ['a user who may reach its monitor', AS_USER],
    ])('of root is not saved by %s', async (_title, as) => {
      const vm = await start(AS_ROOT);
      expect(await save(vm, { as })).toMatchObject({
        code: 12,
        json: {
          error: { code: 'NOT_PERMITTED', message: expect.stringContaining(`process ${vm.pid}`) as string },
        },
      });
      expect(await vm.status()).toBe('running');
    });
  });
});
