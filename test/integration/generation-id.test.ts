/** The VM generation id of a restored guest, as the guest reads it in its own memory. */
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import * as v from 'valibot';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import { agentArgs, inGuest } from '../support/agent.js';
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
const ORIGINAL_ID = '324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87';
/** Where the firmware has put the page is found in memory; the id lies there at this offset (docs/specs/vmgenid.rst). */
const ID_OFFSET = 40;

describeOnEachQemu('a guest with a VM generation id', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const agentSocket = path.join(dir, 'agent.sock');
  let guest: Guest;
  let before: Heartbeat;
  let address: number;

  beforeAll(async () => {
    const device = ['-device', `vmgenid,guid=${ORIGINAL_ID}`];
    guest = await startGuest({ dir, qemu, fillMb: 64, extraArgs: [...agentArgs(dir), ...device] });
    await guest.waitReady();
    address = await findId(guest);
    expect(await seenByGuest()).toBe(ORIGINAL_ID);
    expect(await interruptCount()).toBe(0);
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'web' });
    await guest.stop();
  });
  afterEach(stopRestored);
  afterAll(async () => guest.stop());

  async function seenByGuest(): Promise<string> {
    return formatId(
      await inGuest(agentSocket, `busybox devmem ${address} 64; busybox devmem ${address + 8} 64`),
    );
  }

  /** How often the guest's kernel was told that the id has changed: general-purpose event 5 of ACPI. */
  async function interruptCount(): Promise<number> {
    return Number.parseInt(await inGuest(agentSocket, 'cat /sys/firmware/acpi/interrupts/gpe05'), 10);
  }

  it.each([
    ['lazy', 'direct'],
    ['prefetch', 'direct'],
    ['eager', 'direct'],
    ['lazy', 'stream'],
    ['eager', 'stream'],
  ] as const)('finds another one there after each restore, and is told: %s, %s', async (mode, memoryPath) => {
    const restored = await restoreGuest(guest, { storeDir, reference: 'web', qemu, mode, path: memoryPath });
    const id = await seenByGuest();
    expect(id).not.toBe(ORIGINAL_ID);
    expect(id).toBe(await toldByQemu(guest.qmpSocket));
    expect(await interruptCount()).toBe(1);
    expect(await examineGuest(restored.console, before)).toEqual(WHOLE);
  });
});

/** The guest's physical address of the id. */
async function findId({ qmpSocket, ramBytes }: Guest): Promise<number> {
  const dump = `${qmpSocket}.memory`;
  await ask(qmpSocket, async (qmp) => qmp.execute('pmemsave', { val: 0, size: ramBytes, filename: dump }));
  const memory = readFileSync(dump);
  rmSync(dump);
  const wanted = mixedEndian(Buffer.from(ORIGINAL_ID.replaceAll('-', ''), 'hex'));
  let at = memory.indexOf(wanted);
  while (at !== -1 && at % 4096 !== ID_OFFSET) at = memory.indexOf(wanted, at + 1);
  expect(at).toBeGreaterThan(0);
  return at;
}

async function toldByQemu(qmpSocket: string): Promise<string> {
  return ask(qmpSocket, async (qmp) => {
    const schema = v.object({ guid: v.string() });
    return (await qmp.query(schema, 'query-vm-generation-id')).guid;
  });
}

async function ask<T>(qmpSocket: string, question: (qmp: QmpClient) => Promise<T>): Promise<T> {
  const qmp = await QmpClient.connect({ path: qmpSocket });
  try {
    return await question(qmp);
  } finally {
    await qmp.close();
  }
}

/** @param words two numbers of 64 bits, as devmem prints them */
function formatId(words: string): string {
  const bytes = Buffer.alloc(16);
  words.split(/\s+/).forEach((word, index) => bytes.writeBigUInt64LE(BigInt(word), 8 * index));
  return mixedEndian(bytes)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

/** The first three fields of an id are little-endian in the guest's memory. */
function mixedEndian(id: Buffer): Buffer {
  const [first, second, third, rest] = [
    id.subarray(0, 4),
    id.subarray(4, 6),
    id.subarray(6, 8),
    id.subarray(8),
  ];
  return Buffer.concat([...[first, second, third].map((field) => Buffer.from(field).reverse()), rest]);
}
