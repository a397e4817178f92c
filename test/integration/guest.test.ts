import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { QmpClient } from '../../src/qemu/qmp.js';
import { Console } from '../support/console.js';
import { GuestMemory } from '../support/guest-memory.js';
import { bootGuest, type Guest } from '../support/guest.js';
import { isAlive } from '../support/processes.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { countWrongValues, httpFileIntact, loadMemcached } from '../support/workloads.js';

describeOnEachQemu('the test guest', (qemu) => {
  const dir = suiteDirectory();
  let guest: Guest;

  beforeAll(async () => {
    guest = await bootGuest({ dir, qemu });
    await guest.waitReady();
  });
  afterAll(async () => guest.stop());

  it('finds all of its memory as it filled it', async () => {
    const verification = await guest.console.verify();
    expect(verification).toMatchObject({ ok: true, bad: 0 });
    expect(verification.pageCount * 4096).toBe(115 * 2 ** 20);
  });

  it('reads its disk and its tmpfs as they were built', async () => {
    expect(await guest.console.diskIntact()).toBe(true);
    expect(await guest.console.tmpfsIntact()).toBe(true);
  });

  it('keeps what clients store in its memcached, and serves its file', async () => {
    const load = { port: guest.ports.memcached, keyCount: 250, valueBytes: 4000 };
    await loadMemcached(load);
    expect(await countWrongValues(load)).toBe(0);
    expect(await countWrongValues({ ...load, keyCount: 260 })).toBe(10);
    expect(await httpFileIntact(guest.ports.http)).toBe(true);
  });

  it('goes on where it was after stop and cont', async () => {
    const qmp = await QmpClient.connect({ path: guest.qmpSocket });
    const last = guest.console.last ?? (await guest.console.nextHeartbeat());
    await qmp.execute('stop');
    await qmp.execute('cont');
    await qmp.close();
    await guest.console.nextHeartbeat();
    await guest.console.nextHeartbeat();
    const { heartbeats } = guest.console;
    const numbers = heartbeats.slice(heartbeats.indexOf(last)).map(({ n }) => n);
    expect(numbers).toEqual(numbers.map((_, beat) => last.n + beat));
    expect(await guest.console.verify()).toMatchObject({ ok: true });
  });

  it('stops checking and rewriting when told to idle, and its heart beats on', async () => {
    await guest.console.idle();
    const { rounds } = await guest.console.nextHeartbeat();
    expect((await guest.console.nextHeartbeat()).rounds).toBe(rounds);
    await guest.console.run();
  });

  it('notices one changed byte, and a rewritten page that is sound but old', async () => {
    const memory = GuestMemory.open(guest);
    await guest.console.idle();
    const fixedAt = memory.find(isRandomPage);
    const rewrittenAt = memory.find(isRewrittenPage);
    const [fixed, rewritten] = [memory.read(fixedAt), memory.read(rewrittenAt)];

    await guest.console.run();
    await guest.console.waitFor(/^HB /, 10_000);
    while (memory.read(rewrittenAt).equals(rewritten)) await guest.console.nextHeartbeat();
    await guest.console.idle();
    const current = memory.read(rewrittenAt);
    const damaged = Buffer.from(fixed);
    damaged[1234]! ^= 1;
    memory.write(fixedAt, damaged);
    memory.write(rewrittenAt, rewritten);
    expect(await guest.console.verify()).toMatchObject({ ok: false, bad: 2 });
    expect(guest.console.lines.filter((line) => line.startsWith('MISMATCH'))).toEqual([
      expect.stringMatching(/^MISMATCH fixed .* word=154 /),
      expect.stringMatching(/^MISMATCH stale .* word=1 /),
    ]);

    memory.write(fixedAt, fixed);
    memory.write(rewrittenAt, current);
    memory.close();
    expect(await guest.console.verify()).toMatchObject({ ok: true, bad: 0 });
  });

  it('talks to a console that is connected anew', async () => {
    guest.console.close();
    const again = await Console.connect(guest.consoleSocket);
    expect((await again.nextHeartbeat()).n).toBeGreaterThan(guest.console.last!.n);
    again.close();
  });
});

/** Page 320 of the verifier: pseudo-random, as make_random() of verifier.c begins. */
function isRandomPage(page: Buffer): boolean {
  return page.readBigUInt64LE(0) === firstRandomWord(320n);
}

/** Page 3 of those that are rewritten: its number, then a sequence number, then records (make_dirty()). */
function isRewrittenPage(page: Buffer): boolean {
  const sequence = page.readBigUInt64LE(8);
  const base = u64(0xffff888000000000n + ((3n + sequence * 131n) << 12n));
  return page.readBigUInt64LE(0) === 3n && page.readBigUInt64LE(64) === base + 128n;
}

function firstRandomWord(seed: bigint): bigint {
  let state = mix(u64(seed + 0x9e3779b97f4a7c15n)) | 1n;
  state = u64(state ^ (state << 13n));
  state ^= state >> 7n;
  return u64(state ^ (state << 17n));
}

function mix(value: bigint): bigint {
  value = u64((value ^ (value >> 30n)) * 0xbf58476d1ce4e5b9n);
  value = u64((value ^ (value >> 27n)) * 0x94d049bb133111ebn);
  return value ^ (value >> 31n);
}

function u64(value: bigint): bigint {
  return BigInt.asUintN(64, value);
}

describe('the harness', () => {
  const dir = suiteDirectory();

  it.each([
    ['i440fx', { machine: 'pc' }],
    ['two vCPUs', { smp: 2 }],
    ['two NUMA memory backends', { numaNodes: 2 }],
    ['more than 4 GiB', { ramMb: 5120, fillMb: 64 }],
  ] as const)('boots a guest with %s', async (_title, options) => {
    const guest = await bootGuest({ dir, fillMb: 64, ...options });
    await guest.waitReady();
    expect(await guest.console.verify()).toMatchObject({ ok: true });
    await guest.stop();
    expect(isAlive(guest.pid)).toBe(false);
  });

  it("reports QEMU's own words when it refuses its command line", async () => {
    const boot = async (): Promise<void> =>
      (await bootGuest({ dir, extraArgs: ['-device', 'no-such-device'] })).waitReady();
    await expect(boot()).rejects.toThrow(/no-such-device/);
  });
});
