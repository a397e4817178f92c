import { createHash } from 'node:crypto';
import {
  createReadStream,
  existsSync,
  mkdirSync,
  readFileSync,
  truncateSync,
  utimesSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { materialize } from '../../src/interchange/materialize.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { listVms } from '../../src/vms/list.js';
import { removeGeneration } from '../../src/vms/needs-generation.js';
import { Store } from '../../src/store/store.js';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
} from '../support/checkpointing.js';
import type { Heartbeat } from '../support/console.js';
import { pidsOf } from '../support/faults.js';
import { startGuest, type Guest } from '../support/guest.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { freePort } from '../support/workloads.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };

describeOnEachQemu('a VM whose memory is a mapped file', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const place = { storeDir, name: 'web' };
  const mapped = { storeDir, reference: 'web@1', mode: 'map', qemu } as const;
  const rawFile = path.join(storeDir, 'web', '1', 'raw-memory');
  let guest: Guest;
  let before: Heartbeat;
  let hash: string;

  const make = (reference: string) => materializeIn(storeDir, reference);

  beforeAll(async () => {
    guest = await startGuest({ dir, qemu });
    await guest.waitReady();
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, place);
    await guest.stop();
  });
  afterEach(stopRestored);
  afterAll(async () => guest.stop());

  it('cannot be restored before the file was made, and is told how to', async () => {
    await expect(restoreGuest(guest, mapped)).rejects.toMatchObject({
      code: 'NO_RAW_MEMORY',
      hint: expect.stringContaining('vmckpt materialize web@1') as string,
    });
    expect(await make('web')).toMatchObject({ name: 'web', generation: 1, made: true, sizeBytes: 256 << 20 });
    expect(await make('web')).toMatchObject({ made: false });
    hash = await sha256(rawFile);
  });

  it('finds itself whole, and has not changed the file, although it has given memory back', async () => {
    const restored = await restoreGuest(guest, mapped);
    expect(restored.report).toMatchObject({ mode: 'map', path: 'map', completeMs: null, recoveries: 0 });
    expect(restored.report.resumeMs).toBeGreaterThan(0);
    await balloonTo(guest, 220 << 20);
    await balloonTo(guest, 256 << 20);
    expect(await examineGuest(restored.console, before)).toEqual(WHOLE);
    await restored.stop();
    expect(await sha256(rawFile)).toBe(hash);
  });

  it('keeps its generation from being removed, when no process of vmckpt is left', async () => {
    const runtimeDir = process.env['VMCKPT_RUNTIME_DIR']!;
    const restored = await restoreGuest(guest, mapped);
    await until(
      'them to end',
      () => pidsOf(runtimeDir, 'node').length + pidsOf(runtimeDir, 'keeper').length === 0,
    );
    expect(listVms()).toMatchObject([{ status: 'complete', mode: 'map', memoryShare: null }]);
    await expect(removeGeneration(storeDir, 'web@1')).rejects.toMatchObject({
      code: 'STORE_LOCKED',
      hint: expect.stringContaining('vmckpt stop web') as string,
    });
    const store = await Store.open(storeDir);
    await expect(store.remove('web@1')).rejects.toMatchObject({
      code: 'STORE_LOCKED',
      message: expect.stringContaining(`process ${restored.pid}`) as string,
    });
  });

  it('shares its pages with another one of the same checkpoint', async () => {
    const first = await restoreGuest(guest, mapped);
    const firstMemory = mappingOf(first.pid, rawFile);
    expect(firstMemory.privateDirtyBytes).toBeLessThan(firstMemory.sizeBytes / 10);
    const runtimeDir = process.env['VMCKPT_RUNTIME_DIR']!;
    const other = await twinOf(guest, path.join(dir, 'twin'));
    process.env['VMCKPT_RUNTIME_DIR'] = path.join(dir, 'twin', 'run');
    try {
      const second = await restoreGuest(other, { ...mapped, qemuArgs: other.argv.slice(1) });
      const checks = [first, second].map(({ console }) => examineGuest(console, before));
      expect(await Promise.all(checks)).toEqual([WHOLE, WHOLE]);
      for (const { pid } of [first, second]) {
        const { rssBytes, sharedBytes, privateDirtyBytes, sizeBytes } = mappingOf(pid, rawFile);
        expect(sharedBytes).toBeGreaterThan(rssBytes / 2);
        expect(privateDirtyBytes).toBeLessThan(sizeBytes / 3);
      }
    } finally {
      process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
    }
    await stopRestored();
    expect(await sha256(rawFile)).toBe(hash);
  });

  it('is saved although QEMU cannot do that live, runs on, and its checkpoint restores in every mode', async () => {
    const restored = await restoreGuest(guest, mapped);
    const messages: string[] = [];
    const report = await saveGuest(guest, {
      ...place,
      layout: 'raw',
      onMessage: (text) => messages.push(text),
    });
    expect(report).toMatchObject({ generation: 2 });
    expect(report.pauseMs).toBeGreaterThan(0);
    expect(messages).toEqual([expect.stringContaining('paused') as string]);
    const { n } = await restored.console.nextHeartbeat();
    expect((await restored.console.nextHeartbeat()).n).toBeGreaterThan(n);
    // What 7.2 would lose is refused (save-restore.test.ts).
    if (qemu === '10')
      expect(await saveGuest(guest, { ...place, method: 'precopy' })).toMatchObject({ generation: 3 });
    await restored.stop();
    for (const mode of ['prefetch', 'lazy', 'eager', 'map'] as const) {
      const again = await restoreGuest(guest, { storeDir, reference: 'web@2', mode, qemu });
      const commandLine = readFileSync(`/proc/${again.pid}/cmdline`, 'latin1');
      expect(commandLine).not.toContain(rawFile);
      expect(commandLine.includes('raw-memory')).toBe(mode === 'map');
      expect(await examineGuest(again.console, before)).toEqual(WHOLE);
      await again.stop();
    }
    expect(await sha256(rawFile)).toBe(hash);
  });

  it('is not restored from a file that has been written to, or cut short', async () => {
    const { atime, mtime } = statSync(rawFile);
    utimesSync(rawFile, atime, new Date(mtime.getTime() + 1000));
    await expect(restoreGuest(guest, mapped)).rejects.toMatchObject({ code: 'RAW_MEMORY_CHANGED' });
    truncateSync(rawFile, 4096);
    await expect(restoreGuest(guest, mapped)).rejects.toMatchObject({
      code: 'RAW_MEMORY_CHANGED',
      message: expect.stringContaining('4096 bytes') as string,
    });
    expect(await make('web@1')).toMatchObject({ made: true });
    expect(await sha256(rawFile)).toBe(hash);
    await removeGeneration(storeDir, 'web@1');
    expect(existsSync(rawFile)).toBe(false);
  });
});

describe('memory that is mapped', () => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const ownMemory = ['-object', 'memory-backend-ram,id=ram0,size=256M,prealloc=on'];
  afterEach(stopRestored);

  it.each([
    ['an i440fx', { machine: 'pc' }],
    ['a machine with a back-end', { machine: 'q35,memory-backend=ram0', extraArgs: ownMemory }],
    [
      'a machine with one NUMA node',
      { extraArgs: [...ownMemory, '-numa', 'node,nodeid=0,memdev=ram0', '-mem-prealloc'] },
    ],
  ] as const)('is that of %s', async (_title, options) => {
    const guest = await startGuest({ dir, fillMb: 64, ...options });
    await guest.waitReady();
    const before = await guest.console.nextHeartbeat();
    const { generation } = await saveGuest(guest, { storeDir, name: 'machine', layout: 'raw' });
    await guest.stop();
    const reference = `machine@${generation}`;
    const restored = await restoreGuest(guest, { storeDir, reference, mode: 'map', qemu: 'system' });
    expect(await examineGuest(restored.console, before)).toEqual(WHOLE);
    const file = path.join(storeDir, 'machine', `${generation}`, 'raw-memory');
    expect(mappingOf(restored.pid, file)).toMatchObject({ sizeBytes: 256 << 20 });
    await saveGuest(guest, { storeDir, name: 'machine' });
    await restored.stop();
    const again = await restoreGuest(guest, { storeDir, reference: 'machine', mode: 'lazy', qemu: 'system' });
    expect(await examineGuest(again.console, before)).toEqual(WHOLE);
  });

  it('is refused where it is in two pieces, and the save leaves the VM running', async () => {
    const guest = await startGuest({ dir, fillMb: 64, numaNodes: 2 });
    await guest.waitReady();
    const saving = saveGuest(guest, { storeDir, name: 'pieces', layout: 'raw' });
    await expect(saving).rejects.toMatchObject({
      code: 'MAP_REFUSED',
      message: expect.stringContaining('(ram0, ram1)') as string,
    });
    expect((await guest.console.nextHeartbeat()).bad).toBe(0);
    expect(await (await Store.open(storeDir)).generations('pieces')).toEqual([]);
    await saveGuest(guest, { storeDir, name: 'pieces' });
    await expect(materializeIn(storeDir, 'pieces')).rejects.toMatchObject({ code: 'MAP_REFUSED' });
    await guest.stop();
  });
});

function materializeIn(storeDir: string, reference: string) {
  return materialize({
    storeDir,
    reference,
    onProgress: () => undefined,
    onMessage: () => undefined,
    signal: new AbortController().signal,
  });
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

async function balloonTo({ qmpSocket }: Guest, bytes: number): Promise<void> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  try {
    await qmp.execute('balloon', { value: bytes });
    const actual = async () => ((await qmp.execute('query-balloon')) as { actual: number }).actual;
    await until('the balloon to change', async () => (await actual()) === bytes);
  } finally {
    await qmp.close();
  }
}

/** The same machine with sockets, log and ports of its own, below `dir`. */
async function twinOf(guest: Guest, dir: string): Promise<Guest> {
  mkdirSync(dir);
  const ports = { memcached: await freePort(), http: await freePort() };
  const folder = path.dirname(guest.qmpSocket);
  const own = (text: string): string =>
    text
      .replaceAll(`${folder}/`, `${dir}/`)
      .replaceAll(`:${guest.ports.memcached}-`, `:${ports.memcached}-`)
      .replaceAll(`:${guest.ports.http}-`, `:${ports.http}-`);
  const { qmpSocket, consoleSocket } = guest;
  return {
    ...guest,
    ports,
    argv: guest.argv.map((word, at) => (at === 0 ? word : own(word))),
    qmpSocket: own(qmpSocket),
    consoleSocket: own(consoleSocket),
  };
}

/** What /proc/PID/smaps says of the mapping of a file. */
function mappingOf(pid: number, file: string) {
  const smaps = readFileSync(`/proc/${pid}/smaps`, 'latin1');
  const [, entry = ''] = smaps.split(`${file}\n`);
  const bytes = (name: string): number =>
    Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(entry)![1]) * 1024;
  return {
    sizeBytes: bytes('Size'),
    rssBytes: bytes('Rss'),
    sharedBytes: bytes('Shared_Clean'),
    privateDirtyBytes: bytes('Private_Dirty'),
  };
}
