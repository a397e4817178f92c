/** What a VM's memory may be made of, and what it may not: each saved, restored, and verified by the guest itself. */
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { Hints } from '../../src/checkpoint/hints.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import { Store } from '../../src/store/store.js';
import { readWorkingSet } from '../../src/working-set/file.js';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
  type Restored,
} from '../support/checkpointing.js';
import type { Heartbeat } from '../support/console.js';
import { parkedTransfer } from '../support/faults.js';
import type { QemuChoice } from '../support/cache.js';
import { startGuest, type Guest, type GuestOptions } from '../support/guest.js';
import { hugePagesProblem, withHugePages } from '../support/huge-pages.js';
import { isListening } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };
const RAM_MB = 256;
const VIRTIOFSD = '/usr/lib/qemu/virtiofsd';

async function command(socket: string, name: string, args?: Record<string, unknown>): Promise<unknown> {
  const qmp = await QmpClient.connect({ path: socket });
  try {
    return await qmp.execute(name, args);
  } finally {
    await qmp.close();
  }
}

/** What the suites here share: guests in folders of their own, and their restores. */
function useGuests(qemu: QemuChoice = 'system') {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  let guest: Guest | undefined;
  let before: Heartbeat;
  const shm = mkdtempSync('/dev/shm/vmckpt-');
  afterAll(() => rmSync(shm, { recursive: true }));
  afterEach(async () => {
    vi.unstubAllEnvs();
    await stopRestored();
    await guest?.stop();
  });
  const place = { storeDir, name: 'vm' };
  return {
    dir,
    /** On a tmpfs. */
    shm,
    start: async (options: Partial<GuestOptions>): Promise<Guest> => {
      guest = await startGuest({ dir, qemu, ramMb: RAM_MB, fillMb: 64, ...options });
      await guest.waitReady();
      before = await guest.console.nextHeartbeat();
      return guest;
    },
    save: (options: Partial<Parameters<typeof saveGuest>[1]> = {}) =>
      saveGuest(guest!, { ...place, ...options }),
    saved: async () => readManifest((await (await Store.open(storeDir)).locate('vm')).dir),
    /** What the last restore has taught. */
    lastTrace: async () => {
      const { dir } = await (await Store.open(storeDir)).locate('vm');
      return readWorkingSet(Hints.beside(dir), readManifest(dir).sizes.ramBytes / PAGE_BYTES).workingSet
        .lastTrace;
    },
    restore: (options: Partial<Parameters<typeof restoreGuest>[1]> = {}): Promise<Restored> =>
      restoreGuest(guest!, { storeDir, reference: 'vm', qemu, run: true, ...options }),
    examine: (restored: Restored) => examineGuest(restored.console, before),
  };
}

describe('memory', () => {
  const vm = useGuests();

  it.each([
    [
      'in a shared memfd, allocated at once,',
      { backend: 'memory-backend-memfd,share=on,prealloc=on' },
      { lazy: 'direct', prefetch: 'direct', eager: 'direct' },
    ],
    [
      'in a nameless private file',
      { extraArgs: ['-mem-path', '/dev/shm', '-mem-prealloc'] },
      { lazy: 'direct', eager: 'direct' },
    ],
    [
      'in a shared file',
      { backend: `memory-backend-file,share=on,mem-path=${vm.shm}/ram` },
      { lazy: 'direct', eager: 'stream' },
    ],
  ] as const)('%s comes back lazily and eagerly', async (_title, options, paths) => {
    const guest = await vm.start(options);
    await vm.save();
    expect((await vm.saved()).mode).toBe('background-snapshot');
    await guest.stop();
    for (const [mode, path] of Object.entries(paths) as [keyof typeof paths, string][]) {
      const restored = await vm.restore({ mode });
      expect(restored.report).toMatchObject({ mode, path });
      expect(await vm.examine(restored)).toEqual(WHOLE);
      await restored.stop();
    }
  });

  it('of a ballooned VM comes back as small, and grows again', async () => {
    const guest = await vm.start({});
    await command(guest.qmpSocket, 'balloon', { value: (RAM_MB - 96) << 20 });
    const actual = async () =>
      ((await command(guest.qmpSocket, 'query-balloon')) as { actual: number }).actual >> 20;
    await until('the balloon to be inflated', async () => (await actual()) === RAM_MB - 96);
    await vm.save();
    await guest.stop();
    for (const mode of ['lazy', 'eager'] as const) {
      const restored = await vm.restore({ mode });
      expect(await actual()).toBe(RAM_MB - 96);
      await command(guest.qmpSocket, 'balloon', { value: RAM_MB << 20 });
      await until('the balloon to be deflated', async () => (await actual()) === RAM_MB);
      expect(await vm.examine(restored)).toEqual(WHOLE);
      await restored.stop();
    }
  });

  it('in a DIMM that the command line shows comes back with it', async () => {
    const guest = await vm.start({
      extraArgs: [
        ...['-m', `${RAM_MB}M,slots=2,maxmem=1G`, '-object', 'memory-backend-ram,id=more,size=256M'],
        ...['-device', 'pc-dimm,id=dimm0,memdev=more'],
      ],
      // More than the rest of its memory holds.
      fillMb: 280,
      kernelArgs: 'memhp_default_state=online',
    });
    await vm.save();
    await guest.stop();
    const restored = await vm.restore();
    expect(await vm.examine(restored)).toEqual(WHOLE);
  });

  it('that comes and goes by itself cannot be saved, by name; one that was plugged in cannot be put away', async () => {
    const backends = ['hot', 'mem0'].flatMap((id) => ['-object', `memory-backend-ram,id=${id},size=128M`]);
    const pluggable = ['-device', 'virtio-mem-pci,id=vm0,memdev=mem0,requested-size=0'];
    const guest = await vm.start({
      extraArgs: ['-m', `${RAM_MB}M,slots=2,maxmem=1G`, ...backends, ...pluggable],
    });
    await command(guest.qmpSocket, 'device_add', { driver: 'pc-dimm', id: 'dimm0', memdev: 'hot' });
    await expect(vm.save()).rejects.toMatchObject({
      code: 'MIGRATION_BLOCKED',
      message: expect.stringMatching(/"vm0" is of the kind virtio-mem/) as string,
    });
    await expect(vm.save({ method: 'stopped' })).rejects.toMatchObject({
      code: 'COMMAND_LINE_UNSUPPORTED',
      message: expect.stringMatching(/"dimm0" \(pc-dimm\) was plugged in/) as string,
    });
  });
});

describe('a file that a VM has its memory in', () => {
  const vm = useGuests();
  const checksum = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex');

  it('and only reads is left as it is', async () => {
    const file = path.join(vm.shm, 'template');
    writeFileSync(file, Buffer.alloc(1 << 20, 'somebody else reads this, too'));
    truncateSync(file, RAM_MB << 20);
    const was = checksum(file);
    const guest = await vm.start({ backend: `memory-backend-file,share=off,mem-path=${file}` });
    await vm.save();
    await guest.stop();
    await expect(vm.restore({ mode: 'lazy' })).rejects.toMatchObject({
      code: 'COMMAND_LINE_UNSUPPORTED',
      message: expect.stringContaining(`empty the file ${file}`) as string,
      hint: expect.stringContaining('--mode eager') as string,
    });
    const restored = await vm.restore({ mode: 'eager' });
    expect(await vm.examine(restored)).toEqual(WHOLE);
    expect(checksum(file)).toBe(was);
  });

  it('is not given to two of them', async () => {
    const options = { backend: `memory-backend-file,share=on,mem-path=${path.join(vm.shm, 'ram')}` };
    const guest = await vm.start(options);
    await vm.save();
    await guest.stop();
    const other = await vm.start(options);
    for (const mode of ['lazy', 'eager'] as const)
      await expect(
        vm.restore({ mode, qemuArgs: other.argv.slice(1).map((word) => word.replace('qmp.sock', 'q.sock')) }),
      ).rejects.toMatchObject({
        code: 'COLLISION',
        message: expect.stringContaining(`process ${other.pid} has its memory in`) as string,
      });
    expect((await other.console.verify()).ok).toBe(true);
  });

  it.each(['on', 'off'])(
    'on a disk, share=%s, allows neither a live save nor a lazy restore',
    async (share) => {
      const file = path.join(vm.dir, `ram-${share}`);
      writeFileSync(file, Buffer.alloc(1 << 20, 'something'));
      truncateSync(file, RAM_MB << 20);
      const guest = await vm.start({ backend: `memory-backend-file,share=${share},mem-path=${file}` });
      const messages: string[] = [];
      await vm.save({ onMessage: (text) => messages.push(text) });
      expect(messages.join()).toContain('in a file on a disk, which QEMU cannot save live');
      expect((await vm.saved()).mode).toBe('stopped');
      // It runs on.
      expect((await guest.console.verify()).ok).toBe(true);
      await guest.stop();
      await expect(vm.restore({ mode: 'prefetch' })).rejects.toMatchObject({
        code: 'COMMAND_LINE_UNSUPPORTED',
        hint: expect.stringContaining('--mode eager') as string,
      });
      const restored = await vm.restore({ mode: 'eager' });
      expect(await vm.examine(restored)).toEqual(WHOLE);
    },
  );
});

/** Of 2 MiB, for one VM and what the host keeps of the one before it. */
const HUGE_PAGES = 2 * (RAM_MB / 2) + 8;
const problem = hugePagesProblem(HUGE_PAGES);

describe.skipIf(problem !== undefined)(`huge pages (${problem ?? 'of 2 MiB'})`, () => {
  withHugePages(HUGE_PAGES);

  describeOnEachQemu('memory in huge pages', (qemu) => {
    const vm = useGuests(qemu);

    it('comes back on every path, also when the process that brings it is killed', async () => {
      const guest = await vm.start({ backend: 'memory-backend-memfd,hugetlb=on,hugetlbsize=2M' });
      await vm.save();
      await guest.stop();
      for (const [mode, path] of [
        ['lazy', 'direct'],
        ['prefetch', 'direct'],
        ['eager', 'direct'],
        ['lazy', 'stream'],
      ] as const) {
        const restored = await vm.restore({ mode, path });
        expect(restored.report).toMatchObject({ mode, path });
        expect(await vm.examine(restored)).toEqual(WHOLE);
        await restored.stop();
      }
      expect(await vm.lastTrace()).toBeUndefined();
      vi.stubEnv('VMCKPT_PARK', 'background');
      let killed: number | undefined;
      for (const path of ['direct', 'stream'] as const) {
        const restoring = vm.restore({ mode: 'lazy', path });
        killed = await parkedTransfer('vm', 'background', killed);
        process.kill(killed, 'SIGKILL');
        const restored = await restoring;
        expect(await vm.examine(restored)).toEqual(WHOLE);
        expect(restored.report.recoveries).toBe(1);
        await restored.stop();
      }
    });
  });

  describe('a VM with huge and ordinary memory', () => {
    const vm = useGuests();
    const mount = mkdtempSync('/tmp/vmckpt-huge-');
    beforeAll(() => execFileSync('mount', ['-t', 'hugetlbfs', 'none', mount]));
    afterAll(() => {
      execFileSync('umount', [mount]);
      rmSync(mount, { recursive: true });
    });

    it.each(['direct', 'stream'] as const)('comes back (%s)', async (path) => {
      const guest = await vm.start({
        extraArgs: [
          ...['-object', `memory-backend-ram,id=a,size=${RAM_MB / 2}M`, '-numa', 'node,memdev=a'],
          ...['-object', `memory-backend-file,id=b,size=${RAM_MB / 2}M,mem-path=${mount}`],
          ...['-numa', 'node,memdev=b'],
        ],
      });
      await vm.save();
      await guest.stop();
      const restored = await vm.restore({ mode: 'lazy', path });
      expect(restored.report).toMatchObject({ path });
      expect(await vm.examine(restored)).toEqual(WHOLE);
      expect(await vm.lastTrace()).toBeUndefined();
    });
  });
});

describe.skipIf(!existsSync(VIRTIOFSD))(`a vhost-user device (${VIRTIOFSD})`, () => {
  const vm = useGuests();
  let socket: string;
  let daemon: ReturnType<typeof spawn> | undefined;

  async function startDaemon(): Promise<void> {
    daemon?.kill();
    socket = path.join(vm.dir, 'fs.sock');
    rmSync(socket, { force: true });
    daemon = spawn(VIRTIOFSD, [`--socket-path=${socket}`, '-o', `source=${vm.dir}`, '-o', 'sandbox=chroot'], {
      stdio: 'ignore',
    });
    await until(socket, () => isListening(socket));
  }
  afterAll(() => daemon?.kill());

  it('is refused by name: in a save, on demand, and on the direct path', async () => {
    const memory = { backend: 'memory-backend-memfd,share=on' };
    await startDaemon();
    const device = [
      '-chardev',
      `socket,id=fs,path=${socket}`,
      '-device',
      'vhost-user-fs-pci,chardev=fs,tag=x',
    ];
    const guest = await vm.start({ ...memory, extraArgs: device });
    await expect(vm.save()).rejects.toMatchObject({
      code: 'MIGRATION_BLOCKED',
      message: expect.stringContaining('vhost-user-fs-pci keeps its state in another process') as string,
    });
    await guest.stop();
    const without = await vm.start(memory);
    await vm.save();
    await without.stop();
    const qemuArgs = [...without.argv.slice(1), ...device];
    await expect(vm.restore({ qemuArgs, mode: 'lazy' })).rejects.toMatchObject({
      code: 'COMMAND_LINE_UNSUPPORTED',
      message: expect.stringContaining('vhost-user') as string,
    });
    await startDaemon();
    await expect(vm.restore({ qemuArgs, mode: 'eager', path: 'direct' })).rejects.toMatchObject({
      code: 'DIRECT_REFUSED',
      message: expect.stringContaining('vhost-user') as string,
    });
  });
});
