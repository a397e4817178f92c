/** A page server as a process, and the verbs that ask it. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { distFile } from '../../src/util/package-paths.js';
import { cliSuite } from '../support/cli.js';
import { storeGeneration } from '../support/stored.js';
import { until } from '../support/until.js';
import { temporaryDir } from '../unit/checkpoint/synthetic.js';

interface Serving {
  readonly process: ChildProcess;
  readonly storeDir: string;
  readonly address: string;
  readonly dir: string;
  readonly said: () => string;
}

describe('vmckpt serve', () => {
  const { run } = cliSuite();

  async function serving(args: (dir: string) => readonly string[], listens?: net.Server): Promise<Serving> {
    const dir = temporaryDir();
    const storeDir = path.join(dir, 'store');
    for (const name of ['web', 'web', 'db']) await storeGeneration(storeDir, name);
    const ca = path.join(dir, 'ca');
    expect(
      (await run(['tls', 'init', ca, '--server', '127.0.0.1', '--client', 'one', '--client', 'two'])).code,
    ).toBe(0);
    const command = [distFile('cli/main.js'), '--store', storeDir, 'serve', ...args(dir)];
    const child =
      listens === undefined
        ? spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'] })
        : // As systemd does it: the descriptor 3, and the process id of what is executed.
          spawn('sh', ['-c', 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"', 'sh', process.execPath, ...command], {
            stdio: [
              'ignore',
              'ignore',
              'pipe',
              (listens as unknown as { _handle: { fd: number } })._handle.fd,
            ],
          });
    onTestFinished(() => void child.kill('SIGKILL'));
    let text = '';
    child.stderr!.on('data', (chunk: Buffer) => (text += chunk.toString()));
    const address = await until('the server to listen', () => / on (\S+)\.\n/.exec(text)?.[1]);
    return { process: child, storeDir, address, dir, said: () => text };
  }

  const withTls = (dir: string) => [
    '--listen',
    'tls://127.0.0.1:0',
    '--tls-dir',
    path.join(dir, 'ca', '127.0.0.1'),
  ];
  const asClient = ({ dir, address }: Serving, name: string) => [
    ...['--json', '--store', address, '--tls-dir', path.join(dir, 'ca', name)],
  ];

  it('gives its store to list, show, rm and prune, by TLS', async () => {
    const access = (dir: string) => {
      writeFileSync(path.join(dir, 'access'), 'one read,remove *\ntwo read db\n');
      return [...withTls(dir), '--access', path.join(dir, 'access')];
    };
    const server = await serving(access);
    const [one, two] = [asClient(server, 'one'), asClient(server, 'two')];
    const listed = await run([...one, 'list']);
    expect(listed.json).toMatchObject({
      checkpoints: [
        { name: 'db', generation: 1 },
        { name: 'web', generation: 2 },
        { name: 'web', generation: 1 },
      ],
    });
    expect((await run([...two, 'list'])).json).toMatchObject({ checkpoints: [{ name: 'db' }] });
    expect((await run([...one, 'show', 'web'])).json).toMatchObject({
      ...{ name: 'web', generation: 2, directory: server.address },
      seal: { status: 'missing' },
    });
    expect((await run([...one, 'check'])).json).toMatchObject({
      checks: [{ problemCount: 0 }, { problemCount: 0 }, { problemCount: 0 }],
    });
    expect((await run([...two, 'show', 'web'])).code).toBe(12);
    expect((await run([...two, 'rm', 'db@1'])).code).toBe(12);
    expect((await run([...one, 'rm', 'db@1'])).json).toEqual({ removed: 'db@1' });
    expect((await run([...one, 'prune', '--keep-last', '1'])).json).toMatchObject({
      removed: [{ name: 'web', generation: 1 }],
    });
    expect(existsSync(path.join(server.storeDir, 'web', '1'))).toBe(false);
    writeFileSync(path.join(server.dir, 'access'), 'one read *\n');
    await until('the access file to be read', () => server.said().includes('access file was read again'));
    expect((await run([...two, 'list'])).code).toBe(12);
  });

  it('asks the next replica when the first one is not there', async () => {
    const server = await serving(withTls);
    const replicas = { ...server, address: `tls://127.0.0.1:1,${server.address}` };
    expect((await run([...asClient(replicas, 'one'), 'list'])).code).toBe(0);
    const none = { ...server, address: 'tls://127.0.0.1:1' };
    expect((await run([...asClient(none, 'one'), 'list'])).json).toMatchObject({
      error: { code: 'SOURCE_UNAVAILABLE' },
    });
  });

  it('ends gracefully, and counts for Prometheus until then', async () => {
    const metrics = path.join(temporaryDir(), 'metrics.sock');
    const server = await serving((dir) => [
      '--listen',
      `unix:${dir}/pages.sock`,
      '--metrics',
      `unix:${metrics}`,
    ]);
    expect((await run(['--store', server.address, 'list'])).code).toBe(0);
    const socket = net.connect(metrics);
    socket.write('GET /metrics HTTP/1.0\r\n\r\n');
    let text = '';
    for await (const chunk of socket) text += String(chunk);
    expect(text).toContain('vmckpt_accepted_connections_total 1');
    expect(text).toMatch(/^vmckpt_read_seconds_bucket\{lane="demand",le="\+Inf"\} 0$/m);
    server.process.kill('SIGTERM');
    expect(await once(server.process, 'exit')).toEqual([0, null]);
  });

  it('takes a socket that systemd has made', async () => {
    const listener = net.createServer();
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    const { port } = listener.address() as net.AddressInfo;
    const server = await serving((dir) => ['--tls-dir', path.join(dir, 'ca', '127.0.0.1')], listener);
    // From here on the server alone accepts.
    listener.close();
    expect(server.address).toBe(`tls://127.0.0.1:${port}`);
    expect((await run([...asClient(server, 'one'), 'list'])).code).toBe(0);
  });

  it.each([
    ['plain TCP for other hosts', ['--listen', 'tcp://0.0.0.0:0'], 'USAGE'],
    ['no certificates', ['--listen', 'tls://127.0.0.1:0', '--tls-dir', '/nowhere'], 'HOST_FILE_MISSING'],
    ['no access file', ['--listen', 'unix:/tmp/unused.sock', '--access', '/nowhere'], 'HOST_FILE_MISSING'],
  ])('refuses %s', async (_what, args, code) => {
    const storeDir = path.join(temporaryDir(), 'store');
    await storeGeneration(storeDir, 'web');
    expect((await run(['--json', '--store', storeDir, 'serve', ...args])).json).toMatchObject({
      error: { code },
    });
  });

  it('is not where a VM is saved to', async () => {
    const saved = await run(['--json', '--store', 'tls://a.example:7070', 'save', 'qmp:/nowhere', 'web']);
    expect(saved.json).toMatchObject({ error: { code: 'USAGE' } });
  });
});
