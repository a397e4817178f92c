import net from 'node:net';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { agentSocketOf, GuestAgent } from '../../../src/qemu/guest-agent.js';
import { suiteDirectory } from '../../support/vitest.js';

const PORT = ['-device', 'virtserialport,chardev=a,name=org.qemu.guest_agent.0'];

describe('the channel of the guest agent', () => {
  it.each([
    [['-chardev', 'socket,id=a,path=/a.sock,server=on', ...PORT], '/a.sock'],
    [['-chardev', 'socket,id=b,path=/b.sock,server=on', ...PORT], undefined],
    [['-chardev', 'socket,id=a,path=/a.sock', ...PORT], undefined],
    [['-chardev', 'socket,id=a,path=/a.sock,server=on'], undefined],
  ])('is found in a command line: %j', (args, socket) => {
    expect(agentSocketOf(args)).toBe(socket);
  });
});

describe('GuestAgent', () => {
  const socket = path.join(suiteDirectory(), 'agent.sock');
  const servers: net.Server[] = [];
  afterAll(() => servers.forEach((server) => server.close()));

  it('does not keep what a guest sends without end', async () => {
    const endless = path.join(path.dirname(socket), 'endless.sock');
    let sentBytes = 0;
    const server = net.createServer((client) => {
      const more = (error?: Error | null) => {
        if (error || client.destroyed || sentBytes > 64 << 20) return;
        sentBytes += 1 << 16;
        client.write('x'.repeat(1 << 16), more);
      };
      client.on('error', () => undefined);
      more();
    });
    servers.push(server.listen(endless));
    await expect(GuestAgent.connect(endless, { timeoutMs: 1_000 })).rejects.toMatchObject({
      code: 'AGENT_SILENT',
    });
    expect(sentBytes).toBeLessThan(16 << 20);
  });

  it('does not wait for ever for a guest that does not answer', async () => {
    await expect(GuestAgent.connect(socket, { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'AGENT_SILENT',
    });
    const silent = net.createServer(() => undefined);
    servers.push(silent);
    await new Promise<void>((resolve) => silent.listen(socket, resolve));
    await expect(GuestAgent.connect(socket, { timeoutMs: 50 })).rejects.toMatchObject({
      code: 'AGENT_SILENT',
    });
  });
});
