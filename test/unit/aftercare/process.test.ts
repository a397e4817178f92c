/** The process that gives a clone its own MAC address, with a stand-in for the agent and one for QEMU's monitor. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { GuestAgent } from '../../../src/qemu/guest-agent.js';
import { distFile } from '../../../src/util/package-paths.js';
import { temporaryDir } from '../checkpoint/synthetic.js';

const BEFORE = '52:54:00:00:00:77';
/** The deadline for an answer was less once. */
const SLOW_MS = 6_000;

interface Asked {
  readonly execute: string;
  readonly arguments?: Readonly<Record<string, unknown>>;
}

/** A server of JSON lines; answers what `answer` returns. */
async function serve(
  file: string,
  answer: (asked: Asked) => Promise<string> | string,
  greeting = '',
): Promise<void> {
  const server = net.createServer((client) => {
    client.on('error', () => undefined);
    client.write(greeting);
    let received = '';
    let last = Promise.resolve();
    client.setEncoding('latin1').on('data', (text) => {
      const lines = (received + String(text)).split('\n');
      received = lines.pop()!;
      for (const line of lines)
        last = last.then(async () => {
          client.write(Buffer.from(await answer(JSON.parse(line.replace('\xff', '')) as Asked), 'latin1'));
        });
    });
  });
  server.listen(file);
  await once(server, 'listening');
  onTestFinished(() => void server.close());
}

const line = (value: unknown): string => `${JSON.stringify({ return: value })}\n`;

/** What becomes of a clone whose guest has these interfaces. @returns the states of its link, and the last addresses */
async function careFor(guest: { interfaces: Record<string, string>; keeps?: boolean; slowMs?: number }) {
  const dir = temporaryDir();
  const [monitor, agent] = [path.join(dir, 'm'), path.join(dir, 'a')];
  const links: unknown[] = [];
  const { interfaces, keeps = false, slowMs = 0 } = guest;
  const slow = [slowMs];
  const greeting = `${JSON.stringify({ QMP: { version: { qemu: { major: 10, minor: 0, micro: 0 }, package: '' }, capabilities: [] } })}\n`;
  const ofMonitor = ({ execute, arguments: args }: Asked): object => {
    if (execute === 'set_link') links.push(args!['up']);
    if (execute !== 'human-monitor-command') return execute === 'query-rx-filter' ? [] : {};
    return `net0: index=0,type=nic,model=e1000,macaddr=${BEFORE}\r\n \\ lan: index=0,type=tap\r\n` as unknown as object;
  };
  await serve(
    monitor,
    (asked) =>
      JSON.stringify({ ...JSON.parse(line(ofMonitor(asked))), id: (asked as { id?: unknown }).id }) + '\n',
    greeting,
  );
  await serve(agent, async ({ execute, arguments: args }) => {
    if (execute === 'guest-sync-delimited') return `\xff${line(args!['id'])}`;
    if (execute === 'guest-network-get-interfaces') {
      await sleep(slow.pop() ?? 0);
      return line(Object.entries(interfaces).map(([name, mac]) => ({ name, 'hardware-address': mac })));
    }
    if (execute === 'guest-exec-status') return line({ exited: true, exitcode: 0 });
    if (execute !== 'guest-exec') return line({});
    const [, , , name, , mac] = args!['arg'] as string[];
    if (!keeps) interfaces[name!] = mac!;
    return line({ pid: 1 });
  });
  const care = { isClone: true, agentSocket: agent, networks: [{ id: 'lan' }] };
  const child = spawn(process.execPath, [distFile('aftercare/process.js'), monitor, JSON.stringify(care)]);
  onTestFinished(() => void child.kill('SIGKILL'));
  await once(child, 'exit');
  return { links, interfaces };
}

it('waits for a guest that is slow to answer, and connects it under an address of its own', async () => {
  const { links, interfaces } = await careFor({
    interfaces: { lo: '00:00:00:00:00:00', eth0: BEFORE },
    slowMs: SLOW_MS,
  });
  expect(links).toEqual([true, false, true]);
  expect(interfaces['eth0']).toMatch(/^.[26ae]:/);
}, 60_000);

it('changes everything in the guest that has the address, a VLAN on top of the card too', async () => {
  const { links, interfaces } = await careFor({
    interfaces: { eth0: BEFORE, 'eth0.5': BEFORE, eth1: '52:54:00:00:00:78' },
  });
  expect(links).toEqual([true, false, true]);
  expect(new Set(Object.values(interfaces)).size).toBe(2);
  expect(Object.values(interfaces)).not.toContain(BEFORE);
});

it('leaves a clone cut off that still has the address, whatever its guest says', async () => {
  expect((await careFor({ interfaces: { eth0: BEFORE }, keeps: true })).links).toEqual([]);
  expect((await careFor({ interfaces: { eth0: '52:54:00:00:00:79' } })).links).toEqual([]);
});

it('keeps up with an agent that answers late, and answers twice', async () => {
  const file = path.join(temporaryDir(), 'late');
  let syncs = 0;
  await serve(file, async ({ execute, arguments: args }) => {
    if (execute !== 'guest-sync-delimited') return line({ asked: execute });
    // What was asked meanwhile is answered one after the other, and so is the delimiter before it.
    await sleep(syncs++ === 0 ? 1_200 : 300);
    return `${JSON.stringify({ error: { desc: 'parse error' } })}\n\xff${line(args!['id'])}`;
  });
  const agent = await GuestAgent.connect(file, { timeoutMs: 20_000 });
  expect(await agent.execute('guest-info')).toEqual({ asked: 'guest-info' });
  agent.close();
});
