import type { ChildProcess } from 'node:child_process';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import * as v from 'valibot';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MAX_QMP_DOCUMENT_BYTES } from '../../src/qemu/qmp-documents.js';
import { QmpClient } from '../../src/qemu/qmp.js';
import { BACKSTOP_MS } from '../support/until.js';
import { connectWhenReady, endProcess, startQemu, temporaryDirectory, TINY } from './qemu-helper.js';

const GREETING = '{"QMP":{"version":{"qemu":{"major":9,"minor":1,"micro":0}},"capabilities":[]}}\r\n';
const { directory, remove } = temporaryDirectory();
afterAll(remove);

describe('QmpClient with a real QEMU', () => {
  const socket = path.join(directory, 'real.sock');
  let qemu: ChildProcess;
  let qmp: QmpClient;
  beforeAll(async () => {
    qemu = startQemu([...TINY, '-qmp', `unix:${socket},server=on,wait=off`]);
    qmp = await connectWhenReady(socket);
  });
  afterAll(() => endProcess(qemu));

  it('learns the version and is granted out-of-band commands', () => {
    expect(qmp.version.major).toBeGreaterThanOrEqual(7);
    expect(qmp.version.text).toMatch(/^\d+\.\d+\.\d+/);
    expect(qmp.oob).toBe(true);
  });

  it('understands a monitor whose answers have many lines (pretty=on)', async () => {
    const pretty = path.join(directory, 'pretty.sock');
    const monitor = [
      '-chardev',
      `socket,id=m,path=${pretty},server=on,wait=off`,
      '-mon',
      'chardev=m,mode=control,pretty=on',
    ];
    const other = startQemu([...TINY, ...monitor]);
    try {
      const client = await connectWhenReady(pretty);
      const stopped = client.waitForEvent(['STOP'], { timeoutMs: BACKSTOP_MS });
      expect(await client.execute('stop')).toEqual({});
      expect(await stopped).toMatchObject({ name: 'STOP' });
      expect(await client.execute('query-status')).toMatchObject({ status: 'paused' });
      await client.close();
    } finally {
      await endProcess(other);
    }
  });

  it('knows the process at the other end', () => {
    expect(qmp.peerPid()).toBe(qemu.pid);
  });

  it('runs commands and validates their answers', async () => {
    const Status = v.object({ status: v.string() });
    expect(await qmp.query(Status, 'query-status')).toEqual({ status: 'running' });
    await expect(qmp.query(v.object({ nothing: v.string() }), 'query-status')).rejects.toMatchObject({
      code: 'QMP_NOT_QMP',
    });
  });

  it('reports a refused command with its class and description', async () => {
    await expect(qmp.execute('no-such-command')).rejects.toMatchObject({
      code: 'QMP_COMMAND_FAILED',
      message: expect.stringMatching(/no-such-command.*CommandNotFound/) as string,
    });
    await expect(qmp.execute('migrate-pause', {}, { oob: true })).rejects.toMatchObject({
      code: 'QMP_COMMAND_FAILED',
    });
  });

  it('delivers events with the time QEMU gave them', async () => {
    const stopped = qmp.waitForEvent(['STOP'], { timeoutMs: BACKSTOP_MS });
    await qmp.execute('stop');
    const event = await stopped;
    expect(Math.abs(event.timestampMs - Date.now())).toBeLessThan(60_000);
    expect(qmp.pastEvents.map(({ name }) => name)).toContain('STOP');
    await qmp.execute('cont');
  });

  it('gives up waiting for an event at the deadline or the abort', async () => {
    await expect(qmp.waitForEvent(['NEVER'], { timeoutMs: 20 })).rejects.toMatchObject({ code: 'TIMEOUT' });
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(qmp.waitForEvent(['NEVER'], { timeoutMs: 9999, signal })).rejects.toThrow('enough');
  });

  it('says that the monitor is busy while it serves another client', async () => {
    await expect(QmpClient.connect({ path: socket, timeoutMs: 300 })).rejects.toMatchObject({
      code: 'QMP_BUSY',
      message: expect.stringContaining(`process ${qemu.pid}`) as string,
    });
  });

  it('says so at once when other clients already fill the listen queue', async () => {
    const waiting = Array.from({ length: 6 }, () => net.connect(socket).on('error', () => undefined));
    await expect(QmpClient.connect({ path: socket, timeoutMs: 300 })).rejects.toMatchObject({
      code: 'QMP_BUSY',
    });
    for (const other of waiting) other.destroy();
  });

  it('rejects what is pending when QEMU is killed', async () => {
    const event = qmp.waitForEvent(['NEVER'], { timeoutMs: BACKSTOP_MS });
    const outcome = expect(event).rejects.toMatchObject({ code: 'QMP_CLOSED' });
    await endProcess(qemu);
    await outcome;
    await expect(qmp.execute('query-status')).rejects.toMatchObject({ code: 'QMP_CLOSED' });
    expect((await qmp.closed).code).toBe('QMP_CLOSED');
  });
});

describe('QmpClient with something that is not QMP', () => {
  async function withServer(
    server: net.Server,
    act: (socket: string, clients: net.Socket[]) => Promise<void>,
  ): Promise<void> {
    const socket = path.join(directory, 'fake.sock');
    const clients: net.Socket[] = [];
    server.on('connection', (client: net.Socket) => clients.push(client.on('error', () => undefined)));
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    try {
      await act(socket, clients);
    } finally {
      for (const client of clients) client.destroy();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  it('says that nobody is there', async () => {
    const missing = path.join(directory, 'missing.sock');
    await expect(QmpClient.connect({ path: missing })).rejects.toMatchObject({ code: 'QMP_UNREACHABLE' });
  });

  it('takes a server that accepts and says nothing for a busy one', async () => {
    await withServer(net.createServer(), async (socket) => {
      await expect(QmpClient.connect({ path: socket, timeoutMs: 100 })).rejects.toMatchObject({
        code: 'QMP_BUSY',
      });
    });
  });

  it('can be aborted while it waits for the greeting', async () => {
    await withServer(net.createServer(), async (socket) => {
      const signal = AbortSignal.timeout(50);
      await expect(QmpClient.connect({ path: socket, signal })).rejects.toMatchObject({
        name: 'TimeoutError',
      });
    });
  });

  it('recognises a web server, which speaks only when spoken to', async () => {
    await withServer(http.createServer(), async (socket) => {
      await expect(QmpClient.connect({ path: socket, timeoutMs: 4_000 })).rejects.toMatchObject({
        code: 'QMP_NOT_QMP',
      });
    });
  });

  it('takes an event that comes before the greeting, as after a client that has just left', async () => {
    const version = { qemu: { major: 10, minor: 0, micro: 2 }, package: '' };
    const event = { event: 'STOP', timestamp: { seconds: 1, microseconds: 0 } };
    const server = net.createServer((client) => {
      for (const document of [event, { QMP: { version, capabilities: [] } }])
        client.write(`${JSON.stringify(document)}\n`);
      client.on('data', (line: Buffer) => {
        const { id } = JSON.parse(line.toString()) as { id: number };
        client.write(`${JSON.stringify({ return: {}, id })}\n`);
      });
    });
    await withServer(server, async (socket) => {
      const client = await QmpClient.connect({ path: socket });
      expect(client.pastEvents.map(({ name }) => name)).toEqual(['STOP']);
      await client.close();
    });
  });

  it('refuses other JSON and other greetings', async () => {
    for (const line of ['{"hello":1}', '[]', 'null', 'SSH-2.0-OpenSSH_9.2', '{"QMP":']) {
      const server = net.createServer((client) => void client.write(`${line}\n`));
      await withServer(server, async (socket) => {
        await expect(QmpClient.connect({ path: socket })).rejects.toMatchObject({ code: 'QMP_NOT_QMP' });
      });
    }
  });

  it('refuses a line without end', async () => {
    const server = net.createServer((client) => {
      const block = Buffer.alloc(1 << 20, 'x');
      const more = (): void => void client.write(block, (error) => error ?? more());
      more();
    });
    await withServer(server, async (socket) => {
      await expect(QmpClient.connect({ path: socket })).rejects.toMatchObject({
        code: 'QMP_NOT_QMP',
        message: expect.stringContaining(String(MAX_QMP_DOCUMENT_BYTES)) as string,
      });
    });
  });

  it('refuses a document without end', async () => {
    const server = net.createServer((client) => {
      const block = Buffer.from(`{\n${`    ${'x'.repeat(1 << 20)}\n`.repeat(20)}`);
      client.write(block, () => undefined);
    });
    await withServer(server, async (socket) => {
      await expect(QmpClient.connect({ path: socket })).rejects.toMatchObject({
        code: 'QMP_NOT_QMP',
        message: expect.stringContaining(String(MAX_QMP_DOCUMENT_BYTES)) as string,
      });
    });
  });

  it('says that the connection was closed before the greeting, or in the middle of a command', async () => {
    await withServer(
      net.createServer((client) => client.end()),
      async (socket) => {
        await expect(QmpClient.connect({ path: socket })).rejects.toMatchObject({ code: 'QMP_CLOSED' });
      },
    );
    const server = net.createServer((client) => {
      client.write(GREETING);
      client.once('data', () => client.end('{"return'));
    });
    await withServer(server, async (socket) => {
      await expect(QmpClient.connect({ path: socket })).rejects.toMatchObject({ code: 'QMP_CLOSED' });
    });
  });

  it('drops an answer that comes after its deadline', async () => {
    const server = net.createServer((client) => {
      client.write(GREETING);
      client.once('data', () => client.write('{"return":{},"id":1}\n'));
    });
    await withServer(server, async (socket, [client]) => {
      const qmp = await QmpClient.connect({ path: socket });
      await expect(qmp.execute('query-status', {}, { timeoutMs: 20 })).rejects.toMatchObject({
        code: 'TIMEOUT',
      });
      client?.write('{"return":{},"id":2}\n');
      await qmp.close();
      expect((await qmp.closed).code).toBe('QMP_CLOSED');
    });
  });
});
