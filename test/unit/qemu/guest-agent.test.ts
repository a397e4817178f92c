import net from 'node:net';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { agentSocketOf, GuestAgent } from '../../../src/qemu/guest-agent.js';
import { suiteDirectory } from '../../support/vitest.js';

const PORT = ['-device', 'virtserialport,chardev=a,name=org.qemu.guest_agent.0'];

interface Sync {
  readonly arguments: { readonly id?: number };
}

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

  it('is not waited for when its channel is closed', async () => {
    const closing = path.join(path.dirname(socket), 'closing.sock');
    let answersLeft = 1;
    const server = net.createServer((client) =>
      client.on('data', (asked) => {
        const { id } = (JSON.parse(asked.toString('latin1').replace('\xff', '')) as Sync).arguments;
        if (answersLeft-- > 0) client.write(Buffer.from(`\xff{"return": ${id}}\n`, 'latin1'));
        else client.destroy();
      }),
    );
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(closing, resolve));
    // The deadlines of either are longer than that of the test.
    const agent = await GuestAgent.connect(closing, { timeoutMs: 600_000 });
    await expect(agent.execute('guest-ping')).rejects.toMatchObject({ code: 'AGENT_SILENT' });
    await expect(agent.execute('guest-ping')).rejects.toMatchObject({ code: 'AGENT_SILENT' });
    await expect(GuestAgent.connect(closing, { timeoutMs: 600_000 })).rejects.toMatchObject({
      code: 'AGENT_SILENT',
    });
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
