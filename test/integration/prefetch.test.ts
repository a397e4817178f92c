import { closeSync, fstatSync, openSync, readFileSync, readSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
} from '../support/checkpointing.js';
import type { Heartbeat } from '../support/console.js';
import { startGuest, type Guest } from '../support/guest.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };

describeOnEachQemu('a guest that is restored again and again', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const generationDir = path.join(storeDir, 'web/1');
  let guest: Guest;
  let before: Heartbeat;

  beforeAll(async () => {
    guest = await startGuest({ dir, qemu });
    await guest.waitReady();
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'web' });
    await guest.stop();
  });
  afterEach(stopRestored);
  afterAll(async () => guest.stop());

  const restoreOnce = async (wishes: { explore?: number; mode?: 'prefetch' | 'lazy' } = {}) => {
    const { mode = 'prefetch', explore = 0 } = wishes;
    const prefetch = { budgetMs: 20, explore };
    const restored = await restoreGuest(guest, { storeDir, reference: 'web', qemu, mode, prefetch });
    expect(await examineGuest(restored.console, before)).toEqual(WHOLE);
    await restored.stop();
    return restored.report;
  };

  it('has more and more of what it touches in place before it asks', async () => {
    const first = await restoreOnce();
    expect(first).toMatchObject({ mode: 'prefetch', path: 'direct', prefetchedPages: 0 });
    expect(first.demandFaults).toBeGreaterThan(0);
    for (let run = 2; run <= 4; run++) {
      const report = await restoreOnce();
      expect(report.prefetchedPages).toBeGreaterThan(0);
      expect(report.demandFaults).toBeLessThan(first.demandFaults);
    }
  });

  it('finds itself whole when a part of the prediction is withheld', async () => {
    await restoreOnce({ explore: 0.5 });
  });

  it('teaches its working set without a prediction, too', async () => {
    const report = await restoreOnce({ mode: 'lazy' });
    expect(report).toMatchObject({ mode: 'lazy', prefetchedPages: 0 });
  });

  it('is not run when what it would touch first is damaged', async () => {
    const pages = openSync(path.join(generationDir, 'pages'), 'r+');
    const flip = () => {
      const byte = Buffer.alloc(1);
      const { size } = fstatSync(pages);
      for (let at = 10_000; at < size; at += 20_000) {
        readSync(pages, byte, 0, 1, at);
        byte[0]! ^= 1;
        writeSync(pages, byte, 0, 1, at);
      }
    };
    flip();
    await expect(restoreOnce()).rejects.toMatchObject({ code: 'EXTENT_DAMAGED' });
    flip();
    closeSync(pages);
  });

  it('is restored without a prediction when its working set is damaged', async () => {
    const file = path.join(generationDir, 'working-set');
    const bytes = readFileSync(file);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(file, bytes);
    expect((await restoreOnce()).prefetchedPages).toBe(0);
  });
});
