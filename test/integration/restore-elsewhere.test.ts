/** VMs that are restored from a page server: with the fetcher and the server as processes that may die. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it, onTestFinished, vi } from 'vitest';
import { CACHE_FILES } from '../../src/page-server/cache-layout.js';
import { BARE_WHOLE, examineBare, kvmProblem, nextSweep, startBare } from '../support/bare.js';
import type { BareVm, Sweep } from '../support/bare.js';
import { qemuBinary } from '../support/cache.js';
import { saveGuest, useOwnFolders } from '../support/checkpointing.js';
import { startCli, type RunningCli } from '../support/command.js';
import { Console } from '../support/console.js';
import { killTransfer, parkedTransfer, untilRunning, untilSaid } from '../support/faults.js';
import { killProcessesOf } from '../support/processes.js';
import { suiteDirectory } from '../support/vitest.js';
import { temporaryDir } from '../unit/checkpoint/synthetic.js';

const QEMU = 'system';

vi.setConfig({ testTimeout: 240_000 });

const dir = suiteDirectory();
const storeDir = useOwnFolders(dir);
const socket = path.join(dir, 'pages.sock');
const store = `unix:${socket}`;
let guest: BareVm;
let before: Sweep;

beforeAll(async () => {
  guest = await startBare({ dir, qemu: QEMU, accel: kvmProblem() === undefined ? 'kvm' : 'tcg', ramMb: 32 });
  before = await nextSweep(guest.console);
  await saveGuest(guest, { storeDir, name: 'web' });
  await guest.stop();
});
afterEach(async () => {
  await startCli(['stop', 'web']).ended;
});
afterAll(() => killProcessesOf(path.join(dir, 'run')));

async function startServer(): Promise<RunningCli> {
  const server = startCli(['--store', storeDir, 'serve', '--listen', store]);
  onTestFinished(() => server.kill());
  await untilSaid(server, 'Serving ');
  return server;
}

/** A restore with a cache of its own, which is empty. */
function startRestore(flags: readonly string[], park?: 'background') {
  const cacheHome = temporaryDir();
  const fetcherPid = () =>
    Number(readFileSync(path.join(cacheHome, 'vmckpt', CACHE_FILES.lock), 'utf8').split(' ')[0]);
  onTestFinished(() => killIfAlive(fetcherPid));
  const args = ['restore', '--trust-command-line', '--qemu', qemuBinary(QEMU), ...flags, 'web'];
  const restore = startCli(['--json', '--store', store, ...args], {
    env: { XDG_CACHE_HOME: cacheHome, ...(park && { VMCKPT_PARK: park }) },
  });
  return { restore, fetcherPid };
}

function killIfAlive(pidOf: () => number): void {
  try {
    process.kill(pidOf(), 'SIGKILL');
  } catch {
    // It has ended, or was never there.
  }
}

async function expectWhole(restore: RunningCli): Promise<void> {
  const { code, stderr } = await restore.ended;
  expect({ code, stderr }).toMatchObject({ code: 0 });
  const connected = await Console.connect(guest.consoleSocket);
  expect(await examineBare(connected, before)).toEqual(BARE_WHOLE);
  connected.close();
}

const ways = (['lazy', 'prefetch', 'eager'] as const).flatMap((mode) =>
  (['direct', 'stream'] as const).map((way) => ({ mode, way })),
);

it.each(ways)('is whole: $mode, $way', async ({ mode, way }) => {
  await startServer();
  await expectWhole(startRestore(['--mode', mode, '--path', way]).restore);
});

it.each(['fetcher', 'server', 'serving process'] as const)(
  'is whole when the %s is killed before the rest of its memory is here',
  async (victim) => {
    const server = await startServer();
    const { restore, fetcherPid } = startRestore(['--mode', 'lazy'], 'background');
    const transfer = await parkedTransfer('web', 'background');
    await untilRunning('web', restore);
    if (victim === 'fetcher') process.kill(fetcherPid(), 'SIGKILL');
    else if (victim === 'server') server.kill();
    process.kill(transfer, 'SIGCONT');
    if (victim === 'serving process') expect(killTransfer('web')).toBe(true);
    if (victim === 'server') {
      await server.ended;
      await startServer();
    }
    await expectWhole(restore);
  },
);

it('is restored a second time from the cache', async () => {
  const server = await startServer();
  const cacheHome = temporaryDir();
  const env = { XDG_CACHE_HOME: cacheHome };
  const args = [
    '--json',
    '--store',
    store,
    'restore',
    '--trust-command-line',
    '--qemu',
    qemuBinary(QEMU),
    'web',
  ];
  await expectWhole(startCli(args, { env }));
  await startCli(['stop', 'web']).ended;
  await expectWhole(startCli(args, { env }));
  server.kill();
});

it('is refused by name as a mapped restore, and nothing is begun', async () => {
  await startServer();
  const { code, json } = await startRestore(['--mode', 'map']).restore.ended;
  const message = expect.stringContaining('--mode map') as string;
  expect({ code, json }).toMatchObject({ code: 2, json: { error: { code: 'USAGE', message } } });
  expect(existsSync(path.join(dir, 'run/vms/web'))).toBe(false);
});
