/** What a restored guest has once it runs: the time, a network that knows it, and as a clone an address of its own. */
import dgram from 'node:dgram';
import { once } from 'node:events';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { GuestAgent } from '../../src/qemu/guest-agent.js';
import { readVmLogs } from '../../src/vms/logs.js';
import { VmFolder } from '../../src/vms/folder.js';
import { agentArgs, inGuest } from '../support/agent.js';
import {
  examineGuest,
  restoreGuest,
  saveGuest,
  stopRestored,
  useOwnFolders,
} from '../support/checkpointing.js';
import { startCli } from '../support/command.js';
import type { Heartbeat } from '../support/console.js';
import { startGuest, type Guest } from '../support/guest.js';
import { BACKSTOP_MS, until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { freePort } from '../support/workloads.js';

const WHOLE = { memory: true, disk: true, tmpfs: true, counter: true };
const ORIGINAL_MAC = '52:54:00:00:00:77';
const RARP = 0x8035;
/** A time that the guest has only where nobody has told it another one. */
const LONG_AGO_S = 1_000_000_000;
/** The second time comes after half a second. */
const ASKED_TWICE_MS = 1_200;

interface Frame {
  readonly source: string;
  readonly type: number;
}

describeOnEachQemu('a guest with an agent, on a network with others', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const agentSocket = path.join(dir, 'agent.sock');
  /** What the others on the network see: QEMU sends every frame as a datagram. */
  const frames: Frame[] = [];
  const network = dgram.createSocket('udp4');
  let guest: Guest;
  let before: Heartbeat;

  beforeAll(async () => {
    network.on('message', (frame) =>
      frames.push({
        source: frame.toString('hex', 6, 12).replace(/..(?!$)/g, '$&:'),
        type: frame.readUInt16BE(12),
      }),
    );
    network.bind(0, '127.0.0.1');
    await once(network, 'listening');
    const lan = `udp=127.0.0.1:${network.address().port},localaddr=127.0.0.1:${await freePort()}`;
    const args = [
      '-netdev',
      `socket,id=lan,${lan}`,
      '-device',
      `virtio-net-pci,netdev=lan,mac=${ORIGINAL_MAC}`,
    ];
    guest = await startGuest({ dir, qemu, fillMb: 64, extraArgs: [...agentArgs(dir), ...args] });
    await guest.waitReady();
    const setUp = 'ip link set eth1 up; ip address add 10.9.9.2/24 dev eth1';
    const talk = '(while :; do busybox arping -c 1 -w 1 -I eth1 10.9.9.9; done) >/dev/null 2>&1 &';
    await inGuest(agentSocket, `${setUp}; ${talk} date -s @${LONG_AGO_S}`);
    before = await guest.console.nextHeartbeat();
    await saveGuest(guest, { storeDir, name: 'lan' });
    await guest.stop();
    await forgetFrames();
  });
  afterEach(async () => {
    await stopRestored();
    await forgetFrames();
  });
  afterAll(async () => {
    network.close();
    await guest.stop();
  });

  const untilSeen = (wanted: (frame: Frame) => boolean) => until('a frame', () => frames.find(wanted));

  /** Also those of a QEMU that has ended which were not read yet: they stand before one of ours. */
  async function forgetFrames(): Promise<void> {
    network.send(Buffer.alloc(14, 0xff), network.address().port, '127.0.0.1');
    await untilSeen(({ source }) => source === 'ff:ff:ff:ff:ff:ff');
    frames.length = 0;
  }

  /** Until the process that sees to it has said so. */
  const untilLogged = (name: string, text: string) =>
    until(`"${text}" in the log`, () => JSON.stringify(readVmLogs(name).transfer).includes(text));

  it('gets the time, and is announced to its neighbours under the address that it had', async () => {
    const restored = await restoreGuest(guest, { storeDir, reference: 'lan', qemu });
    await untilSeen(({ source, type }) => source === ORIGINAL_MAC && type === RARP);
    await untilLogged('lan', 'the guest has the time');
    expect(Number(await inGuest(agentSocket, 'date +%s'))).toBeGreaterThan(LONG_AGO_S * 1.5);
    expect(await inGuest(agentSocket, 'cat /sys/class/net/eth1/address')).toBe(ORIGINAL_MAC);
    expect(await examineGuest(restored.console, before)).toEqual(WHOLE);
  });

  it('is in step with its agent, also when that was asked more than once before it could answer', async () => {
    const { pid } = await restoreGuest(guest, { storeDir, reference: 'lan', qemu });
    await untilLogged('lan', 'the guest has the time');
    process.kill(pid, 'SIGSTOP');
    const connecting = GuestAgent.connect(agentSocket, { timeoutMs: BACKSTOP_MS });
    await sleep(ASKED_TWICE_MS);
    process.kill(pid, 'SIGCONT');
    const agent = await connecting;
    await agent.setTime(LONG_AGO_S * 1000);
    expect((await agent.interfaces()).map(({ macAddress }) => macAddress)).toContain(ORIGINAL_MAC);
    agent.close();
  });

  it('gets another MAC address as a clone, before its neighbours hear of it; also as the clone of a clone', async () => {
    const first = await restoreGuest(guest, {
      storeDir,
      reference: 'lan',
      qemu,
      vmName: 'one',
      identity: 'clone',
    });
    await untilLogged('one', 'a MAC address of its own');
    const own = first.report.moved.find(({ from }) => from === agentSocket)!.to;
    const address = await inGuest(own, 'cat /sys/class/net/eth1/address');
    expect(address).toMatch(/^.[26ae]:/);
    await untilSeen(({ source }) => source === address);
    expect(frames.filter(({ source }) => source !== address)).toEqual([]);
    expect(await examineGuest(first.console, before)).toEqual(WHOLE);

    await saveGuest(guest, { storeDir, name: 'again', vm: `qmp:${first.report.qmpSocket}` });
    await first.stop();
    await forgetFrames();
    const second = await restoreGuest(
      { ...guest, consoleSocket: first.report.moved.find(({ from }) => from === guest.consoleSocket)!.to },
      { storeDir, reference: 'again', qemu, vmName: 'two', identity: 'clone' },
    );
    await untilLogged('two', 'a MAC address of its own');
    const ownToo = second.report.moved.find(({ from }) => from === own)!.to;
    const another = await inGuest(ownToo, 'cat /sys/class/net/eth1/address');
    expect([ORIGINAL_MAC, address]).not.toContain(another);
    expect(frames.filter(({ source }) => source !== another)).toEqual([]);
  });

  it('gets it although the verb is killed before the VM runs', async () => {
    const how = ['--qemu', qemu, '--trust-command-line'];
    const restore = startCli(['--store', storeDir, 'restore', 'lan', '--as', 'one', ...how]);
    const folder = new VmFolder('one');
    await until('its transfer to begin', () => folder.readTransfer() !== undefined);
    restore.kill();
    await restore.ended;
    await untilLogged('one', 'a MAC address of its own');
  });
});
