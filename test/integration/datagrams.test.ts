/** Clones of a tiny VM that takes datagrams: what is meant for the original goes on arriving there. */
import { execFileSync } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, it, onTestFinished } from 'vitest';
import type { RestoreReport } from '../../src/restore/report.js';
import { qemuBinary } from '../support/cache.js';
import { useOwnFolders } from '../support/checkpointing.js';
import { startCli } from '../support/command.js';
import { killAndWait, killAtExit, spawnTracked } from '../support/processes.js';
import { until } from '../support/until.js';
import { describeOnEachQemu, suiteDirectory } from '../support/vitest.js';
import { connectWhenReady, TINY } from './qemu-helper.js';

/** How often QEMU announces a VM. */
const ROUNDS = 3;
/** More than it takes for that. */
const ANNOUNCED_MS = 500;
const MULTICAST = '230.7.7.7';

async function tell(qmpSocket: string, command: 'cont' | 'stop'): Promise<void> {
  const qmp = await connectWhenReady(qmpSocket, false);
  await qmp.execute(command);
  await qmp.close();
}

async function bound(port = 0): Promise<dgram.Socket> {
  const socket = dgram.createSocket('udp4').bind(port, '127.0.0.1');
  await once(socket, 'listening');
  return socket;
}

/** Ports that nobody has at this moment. */
async function freeUdpPorts(count: number): Promise<number[]> {
  const sockets = await Promise.all(Array.from({ length: count }, () => bound()));
  const ports = sockets.map((socket) => socket.address().port);
  for (const socket of sockets) socket.close();
  return ports;
}

describeOnEachQemu('a clone beside a VM that takes datagrams', (qemu) => {
  const dir = suiteDirectory();
  const storeDir = useOwnFolders(dir);
  const file = (name: string) => path.join(dir, name);
  let peer: dgram.Socket;
  let ports: { monitor: number; network: number; dgram: number; group: number };
  let clone: RestoreReport;

  const cli = (...args: string[]) => startCli(['--store', storeDir, '--json', ...args]).ended;

  beforeAll(async () => {
    peer = await bound();
    const [monitor, network, dgramPort, group] = await freeUdpPorts(4);
    ports = { monitor: monitor!, network: network!, dgram: dgramPort!, group: group! };
    const to = `127.0.0.1:${peer.address().port}`;
    const remote = `remote.type=inet,remote.host=127.0.0.1,remote.port=${peer.address().port}`;
    const local = (port: number) => `local.type=inet,local.host=127.0.0.1,local.port=${port}`;
    const lan = (id: string, network: string) => [
      ...[
        '-netdev',
        `${network.replace(/^(\w+)/, `$1,id=${id}`)}`,
        '-device',
        `e1000,netdev=${id},bootindex=-1,romfile=`,
      ],
      ...['-object', `filter-dump,id=dump-${id},netdev=${id},file=${file(id)}`],
    ];
    const child = spawnTracked(
      [
        qemuBinary(qemu),
        ...TINY,
        ...[
          '-qmp',
          `unix:${file('qmp')},server=on,wait=off`,
          '-monitor',
          `udp:${to}@127.0.0.1:${ports.monitor}`,
        ],
        ...lan('udp', `socket,udp=${to},localaddr=127.0.0.1:${ports.network}`),
        ...lan('dgram', `dgram,${local(ports.dgram)},${remote}`),
        ...lan(
          'unix',
          `dgram,local.type=unix,local.path=${file('u')},remote.type=unix,remote.path=${file('v')}`,
        ),
        ...lan('group', `socket,mcast=${MULTICAST}:${ports.group},localaddr=127.0.0.1`),
        ...[
          '-device',
          'virtio-serial-pci',
          '-chardev',
          `socket,id=a,path=${file('agent')},server=on,wait=off`,
        ],
        ...['-device', 'virtserialport,chardev=a,name=org.qemu.guest_agent.0'],
      ],
      file('log'),
    );
    await (await connectWhenReady(file('qmp'), false)).close();
    expect(await cli('save', `qmp:${file('qmp')}`, 'web')).toMatchObject({ code: 0 });
    await tell(file('qmp'), 'stop');
    const restored = await cli(
      'restore',
      'web',
      '--as',
      'twin',
      '--qemu',
      qemuBinary(qemu),
      '--trust-command-line',
    );
    expect(restored).toMatchObject({ code: 0 });
    // The files that its filters write are others, and are meant to be.
    expect(restored.stderr).not.toContain('Differs from the saved VM');
    clone = restored.json as RestoreReport;
    killAtExit(clone.qemuPid!);
    expect(child.exitCode).toBeNull();
  });
  beforeEach(() => void peer.removeAllListeners('message'));
  afterAll(async () => {
    peer.close();
    await killAndWait(clone.qemuPid!);
  });

  it('leaves it its monitor', async () => {
    let answer = '';
    peer.on('message', (text) => (answer += String(text)));
    peer.send('info status\n', ports.monitor, '127.0.0.1');
    // The original is paused, the clone runs.
    await until('an answer', () => /VM status: paused/.test(answer));
    expect(answer).not.toContain('running');
    expect(clone.moved).toContainEqual(
      expect.objectContaining({ what: 'port', option: '-monitor', from: `127.0.0.1:${ports.monitor}` }),
    );
  });

  it.each(['udp', 'dgram', 'unix', 'group'] as const)(
    'leaves it the frames of its network: %s',
    async (id) => {
      const frame = Buffer.concat([Buffer.alloc(6, 0xff), Buffer.alloc(54, 7)]);
      const before = statSync(file(id)).size;
      if (id === 'unix') {
        // Node.js has no sockets of this kind.
        const send =
          'socket(S, AF_UNIX, SOCK_DGRAM, 0); send(S, pack("H*", $ARGV[0]), 0, sockaddr_un($ARGV[1])) or die';
        execFileSync('perl', ['-MSocket', '-e', send, frame.toString('hex'), file('u')]);
      } else if (id === 'group') {
        peer.setMulticastInterface('127.0.0.1');
        peer.send(frame, ports.group, MULTICAST);
      } else peer.send(frame, id === 'udp' ? ports.network : ports.dgram, '127.0.0.1');
      await until('the frame', () => statSync(file(id)).size > before);
    },
  );

  /** Has QEMU announce a VM; what reaches its neighbours is counted from here on. */
  async function announce(qmpSocket: string): Promise<{ from: (port?: number) => number }> {
    const ports: number[] = [];
    peer.on('message', (_, { port }) => ports.push(port));
    const qmp = await connectWhenReady(qmpSocket, false);
    await qmp.execute('announce-self', { initial: 50, max: 50, rounds: ROUNDS, step: 10 });
    await qmp.close();
    return { from: (wanted) => ports.filter((port) => wanted === undefined || port === wanted).length };
  }

  async function expectSilence(qmpSocket: string): Promise<void> {
    peer.removeAllListeners('message');
    const heard = await announce(qmpSocket);
    await sleep(ANNOUNCED_MS);
    expect(heard.from()).toBe(0);
  }

  it('cannot be heard by its neighbours as long as it has no MAC address of its own: no agent answers it', async () => {
    await tell(file('qmp'), 'cont');
    const heard = await announce(file('qmp'));
    await until('its last announcement', () =>
      [ports.network, ports.dgram].every((port) => heard.from(port) === ROUNDS),
    );
    await tell(file('qmp'), 'stop');
    await expectSilence(clone.qmpSocket);
  });

  it('cannot be heard when it is paused, and when it goes on', async () => {
    expect(await cli('save', `qmp:${file('qmp')}`, 'paused')).toMatchObject({ code: 0 });
    const restored = await cli(
      ...['restore', 'paused', '--as', 'still', '--qemu', qemuBinary(qemu), '--trust-command-line'],
    );
    expect(restored).toMatchObject({ code: 0, json: { resumeMs: null } });
    const { qmpSocket, qemuPid } = restored.json as RestoreReport;
    killAtExit(qemuPid!);
    onTestFinished(() => killAndWait(qemuPid!));
    await expectSilence(qmpSocket);
    await tell(qmpSocket, 'cont');
    await expectSilence(qmpSocket);
  });
});
