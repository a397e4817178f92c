/** Machines of real QEMUs through import and export, against QEMU's own memory dumps; and restored from an import. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import { beforeAll, expect, it } from 'vitest';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { openInput } from '../../src/interchange/files.js';
import type { QmpClient } from '../../src/qemu/qmp.js';
import type { RestoreOptions } from '../../src/restore/attempt.js';
import { qemuBinary } from '../support/cache.js';
import { useOwnFolders, restoreSilently } from '../support/checkpointing.js';
import { killAndWait, killAtExit, spawnTracked } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import {
  digestsOf,
  exportTo,
  importPieces,
  readGeneration,
  readStream,
} from '../unit/interchange/machines.js';
import { connectWhenReady, FIRMWARE_CLOCK, TINY, untilWritten } from './qemu-helper.js';

const RAM_BYTES = 64 * 2 ** 20;
const DATA_ADDRESS = 0x0100_0000;
const DATA_BYTES = 8 * 2 ** 20;

const MigrationInfo = v.object({ status: v.optional(v.string()), 'error-desc': v.optional(v.string()) });
const Status = v.object({ running: v.boolean() });

async function migrationDone(qmp: QmpClient): Promise<void> {
  await until('the migration', async () => {
    const info = await qmp.query(MigrationInfo, 'query-migrate');
    if (info.status === 'failed') throw new Error(info['error-desc'] ?? 'migration failed');
    return info.status === 'completed';
  });
}

async function isRunning(qmp: QmpClient): Promise<boolean> {
  return (await qmp.query(Status, 'query-status')).running;
}

/** Digests of the machine's memory, by QEMU's own account. */
async function dump(qmp: QmpClient, filename: string): Promise<string[]> {
  await qmp.execute('pmemsave', { val: 0, size: RAM_BYTES, filename });
  return digestsOf(await readFile(filename));
}

describeOnEachQemu('a stream', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const inDir = (name: string): string => path.join(dir, name);
  const loader = ['-device', `loader,file=${inDir('data')},addr=${DATA_ADDRESS},force-raw=on`];
  const args = [...TINY, ...loader];

  async function withQemu<T>(extra: readonly string[], use: (qmp: QmpClient) => Promise<T>): Promise<T> {
    const socket = inDir('qmp.sock');
    const monitor = ['-qmp', `unix:${socket},server=on,wait=off`];
    const child = spawnTracked([qemuBinary(qemu), ...args, ...monitor, ...extra], inDir('qemu.log'));
    try {
      const qmp = await connectWhenReady(socket);
      try {
        return await use(qmp);
      } finally {
        await qmp.close();
      }
    } finally {
      await killAndWait(child.pid);
    }
  }

  /** What `-incoming` of an unchanged QEMU makes of a file. */
  function loadWithStockQemu(file: string): Promise<{ memory: string[]; running: boolean }> {
    return withQemu(['-incoming', `exec:cat ${file}`], async (qmp) => {
      await migrationDone(qmp);
      const running = await isRunning(qmp);
      return { memory: await dump(qmp, inDir('loaded')), running };
    });
  }

  const saved = inDir('saved.stream');
  const live = inDir('live.stream');
  let memory: string[];

  beforeAll(async () => {
    const data = Buffer.alloc(DATA_BYTES);
    for (let at = 0, x = 1; at < data.length / 2; at += 4)
      data.writeUInt32LE((x = (Math.imul(x, 1664525) + 1013904223) >>> 0), at);
    data.fill(0x5a, DATA_BYTES / 2, DATA_BYTES / 2 + 2 ** 20);
    await writeFile(inDir('data'), data);
    memory = await withQemu([], async (qmp) => {
      await untilWritten(qmp, FIRMWARE_CLOCK);
      await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 40 });
      await qmp.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'background-snapshot', state: true }],
      });
      await qmp.execute('migrate', { uri: `exec:cat > ${live}` });
      await migrationDone(qmp);
      await qmp.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'background-snapshot', state: false }],
      });
      await qmp.execute('stop');
      const digests = await dump(qmp, inDir('original'));
      await qmp.execute('migrate', { uri: `exec:cat > ${saved}` });
      await migrationDone(qmp);
      return digests;
    });
  });

  it('of a stopped machine becomes a generation with the same pages and devices', async () => {
    const stream = readStream(await readFile(saved));
    const report = await importPieces([], {
      storeDir,
      name: 'stopped',
      input: await openInput(saved),
      commandLine: args,
    });
    expect(report.nonZeroBytes).toBeGreaterThan(DATA_BYTES / 2);
    expect(await readGeneration(storeDir, 1, 'stopped')).toEqual(stream);
    const manifest = readManifest(path.join(storeDir, 'stopped', '1'));
    expect(manifest).toMatchObject({ mode: 'import', runState: 'paused', commandLine: args });
    expect(manifest.machine.type).toMatch(/^pc-q35-/);
  });

  it('that was imported and exported is loaded by an unchanged QEMU, which finds the same memory', async () => {
    const exported = inDir('exported.stream');
    const { fileBytes } = await exportTo(exported, { storeDir, reference: 'stopped' });
    expect((await stat(exported)).size).toBe(fileBytes);
    expect(await loadWithStockQemu(exported)).toEqual({ memory, running: false });
    await importPieces([], { storeDir, name: 'again', input: await openInput(exported) });
    expect(await readGeneration(storeDir, 1, 'again')).toEqual(readStream(await readFile(saved)));
  });

  it('of a background snapshot runs on in an unchanged QEMU after import and export', async () => {
    const exported = inDir('live-exported.stream');
    await importPieces([], { storeDir, name: 'live', input: await openInput(live) });
    expect(readManifest(path.join(storeDir, 'live', '1')).runState).toBe('running');
    await exportTo(exported, { storeDir, reference: 'live' });
    expect(readStream(await readFile(exported))).toEqual(readStream(await readFile(live)));
    expect((await loadWithStockQemu(exported)).running).toBe(true);
  });

  const restoreImported = (options: Pick<RestoreOptions, 'reference' | 'mode'>) =>
    restoreSilently({
      storeDir,
      qemuBinary: qemuBinary(qemu),
      ...options,
    });

  it.each(['lazy', 'eager'] as const)(
    'that was imported with a command line is restored: %s',
    async (mode) => {
      const report = await restoreImported({ reference: 'stopped', mode });
      killAtExit(report.qemuPid!);
      const qmp = await connectWhenReady(report.qmpSocket);
      try {
        expect(await isRunning(qmp)).toBe(false);
        expect(await dump(qmp, inDir('restored'))).toEqual(memory);
      } finally {
        await qmp.close();
        await killAndWait(report.qemuPid!);
      }
    },
  );

  it('that was imported without a command line says so when it is restored', async () => {
    const attempt = restoreImported({ reference: 'live', mode: 'lazy' });
    await expect(attempt).rejects.toMatchObject({ code: 'COMMAND_LINE_UNSUPPORTED' });
  });
});
