/**
 * `vmckpt uffd` against a client in C that does what Firecracker does (uffd-client.c): it compares all that it reads
 * with the file that was imported. Firecracker itself needs KVM, which is not here.
 */
import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, it } from 'vitest';
import { connectUnix, sendFds } from '../../src/native/index.js';
import { cliSuite } from '../support/cli.js';
import { startCli, type RunningCli } from '../support/command.js';
import { hugePagesProblem, withHugePages } from '../support/huge-pages.js';
import { untilSaid } from '../support/faults.js';
import { isListening, killAtExit } from '../support/processes.js';
import { ownPack } from '../support/packs.js';
import { BACKSTOP_MS, until } from '../support/until.js';

const MB = 1 << 20;
const PAGE = 4096;
const HUGE = 2 * MB;
const IMAGE_BYTES = 96 * MB;
/** With a hole between 80 and 84 MiB, which no region has. */
const REGIONS = [
  '0x7e0000000000:0:33554432',
  '0x7e1000000000:67108864:12582912',
  '0x7e2000000000:33554432:33554432',
];

const { directory, storeDir, run } = cliSuite();
const at = (name: string): string => path.join(directory, name);
const [client, image] = [at('client'), at('memory')];
let sockets = 0;

beforeAll(async () => {
  const source = path.join(import.meta.dirname, 'uffd-client.c');
  execFileSync('gcc', ['-Wall', '-Wextra', '-Werror', '-O2', '-pthread', '-o', client, source]);
  writeImage();
  expect(await run(['import', '--raw-memory', image, 'vm'])).toMatchObject({ code: 0 });
});

/** Zero pages, pages of one byte, and others, in turns. */
function writeImage(): void {
  const fd = openSync(image, 'w');
  const words = new Uint32Array(MB / 4);
  for (let start = 0; start < IMAGE_BYTES; start += MB) {
    if (start >= 80 * MB && start < 84 * MB) continue;
    for (let word = 0; word < words.length; word++) {
      const page = start / PAGE + Math.floor(word / 1024);
      const varied = page % 11 !== 0 && word % 1024 < 300;
      words[word] =
        page % 5 === 0 ? 0 : varied ? Math.imul(page * 1024 + word, 2654435761) : (page & 0xff) * 0x01010101;
    }
    writeSync(fd, words, 0, MB, start);
  }
  closeSync(fd);
}

interface Handler {
  readonly cli: RunningCli;
  readonly socket: string;
}

async function startHandler(...args: string[]): Promise<Handler> {
  const socket = at(`${sockets++}.sock`);
  const cli = startCli(['--json', '--store', storeDir, 'uffd', 'vm', '--socket', socket, ...args]);
  await until(socket, () => isListening(socket));
  return { cli, socket };
}

async function runClient(socket: string, work: string, pageBytes = PAGE): Promise<void> {
  const args = [socket, image, work, String(pageBytes), ...REGIONS];
  const { stdout } = await promisify(execFile)(client, args, {
    timeout: BACKSTOP_MS,
    killSignal: 'SIGKILL',
  });
  expect(stdout).toMatch(/ok\n$/);
}

/** One that works, and then waits for a line on its standard input. */
async function startClient(socket: string, work: string): Promise<ChildProcess> {
  const child = spawn(client, [socket, image, work, String(PAGE), ...REGIONS], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  killAtExit(child.pid!);
  await once(child.stdout, 'data');
  return child;
}

async function goOn(child: ChildProcess): Promise<void> {
  child.stdin!.end('\n');
  const [code] = (await once(child, 'exit')) as [number | null];
  expect(code).toBe(0);
}

describe('vmckpt uffd', () => {
  it.each([
    ['in small pages, filling the rest', PAGE, []],
    ['in small pages, on demand only', PAGE, ['--demand-only']],
  ])('serves user-mode and kernel-mode faults and a balloon %s', async (_title, pageBytes, flags) => {
    const { cli, socket } = await startHandler(...flags);
    expect(statSync(socket).mode & 0o777).toBe(0o600);
    await runClient(socket, 'bkbua', pageBytes);
    const { code, json } = await cli.ended;
    expect([code, json]).toMatchObject([0, { name: 'vm', generation: 1, ramBytes: 76 * MB }]);
    if (flags.length > 0)
      expect(json).toMatchObject({ ending: 'vm-ended', completeMs: null, backgroundPages: 0 });
    expect((json as { removedPages: number }).removedPages).toBeGreaterThan(0);
    expect(existsSync(socket)).toBe(false);
  });

  it('has in place what VMs before it have asked for', async () => {
    const serveOnce = async (...flags: string[]) => {
      const { cli, socket } = await startHandler(...flags);
      // It runs when it has all that it is given unasked: one that is served on demand has nothing.
      const vm = await startClient(socket, 'wk');
      const isServed = flags.length > 0 ? goOn(vm) : cli.ended.then(() => goOn(vm));
      const { code, json } = await cli.ended;
      expect(code).toBe(0);
      await isServed;
      return json as { demandFaults: number; prefetchedPages: number };
    };
    rmSync(path.join(storeDir, 'vm/1/working-set'), { force: true });
    const first = await serveOnce('--demand-only');
    expect(first.demandFaults).toBeGreaterThan(200);
    for (let run = 2; run <= 3; run++) {
      const { demandFaults, prefetchedPages } = await serveOnce();
      expect(demandFaults).toBe(0);
      expect(prefetchedPages).toBeGreaterThan(first.demandFaults / 2);
    }
  });

  const problem = hugePagesProblem(45);
  describe.skipIf(problem !== undefined)(
    `on huge pages${problem === undefined ? '' : ` (${problem})`}`,
    () => {
      withHugePages(45);
      it.each([
        ['filling the rest', []],
        ['on demand only', ['--demand-only']],
      ])('does so, too, %s', async (_title, flags) => {
        const { cli, socket } = await startHandler(...flags);
        await runClient(socket, 'bkbua', HUGE);
        expect(await cli.ended).toMatchObject({ code: 0 });
      });
    },
  );
  describe.skipIf(problem !== undefined)(
    `on too few huge pages${problem === undefined ? '' : ` (${problem})`}`,
    () => {
      withHugePages(10);
      it.each([[[]], [['--demand-only']]])(
        'fails, and never takes what is missing for present %s',
        async (flags) => {
          const { cli, socket } = await startHandler('--on-failure', 'kill', ...flags);
          await expect(runClient(socket, 'a', HUGE)).rejects.toMatchObject({ signal: 'SIGKILL' });
          expect(await cli.ended).toMatchObject({ code: 1, json: { error: { code: 'TRANSFER_FAILED' } } });
        },
      );
    },
  );

  it('hands the memory back when all of it is there', async () => {
    const { cli, socket } = await startHandler();
    const vm = await startClient(socket, 'wab');
    expect(await cli.ended).toMatchObject({ code: 0, json: { ending: 'handed-back', demandFaults: 0 } });
    await goOn(vm);
  });

  it('ends when the VM dies', async () => {
    const { cli, socket } = await startHandler('--demand-only');
    await expect(runClient(socket, 'ud')).rejects.toMatchObject({ signal: 'SIGKILL' });
    expect(await cli.ended).toMatchObject({ code: 0, json: { ending: 'vm-ended' } });
  });

  it('gives a VM all of its memory before it leaves on an interrupt', async () => {
    const { cli, socket } = await startHandler('--demand-only');
    // A fault that was served tells that the handler has taken the VM.
    const vm = await startClient(socket, 'kwa');
    cli.kill('SIGINT');
    expect(await cli.ended).toMatchObject({ code: 0, json: { ending: 'handed-back' } });
    await goOn(vm);
  });

  it('leaves nothing when it is interrupted before a VM has come', async () => {
    const { cli, socket } = await startHandler();
    cli.kill('SIGINT');
    expect(await cli.ended).toMatchObject({ code: 130, json: { error: { code: 'INTERRUPTED' } } });
    expect(existsSync(socket)).toBe(false);
  });
});

describe('vmckpt uffd with a damaged image', () => {
  beforeAll(async () => {
    expect(await run(['import', '--raw-memory', image, 'hurt'])).toMatchObject({ code: 0 });
    const pages = ownPack(path.join(storeDir, 'hurt', '1'));
    const bytes = readFileSync(pages);
    bytes[1000000]! ^= 1;
    writeFileSync(pages, bytes);
  });

  const startHurt = async (...args: string[]): Promise<Handler> => {
    const socket = at(`${sockets++}.sock`);
    const cli = startCli(['--json', '--store', storeDir, 'uffd', 'hurt', '--socket', socket, ...args]);
    await until(socket, () => isListening(socket));
    return { cli, socket };
  };

  it('names the damage and lets the VM live', async () => {
    const { cli, socket } = await startHurt();
    const vm = await startClient(socket, 'w');
    await untilSaid(cli, 'A VM that needs it hangs');
    await goOn(vm);
    const { code, json, stderr } = await cli.ended;
    expect([code, json]).toMatchObject([13, { error: { code: 'EXTENT_DAMAGED' } }]);
    expect(stderr).not.toContain('Killing');
  });

  it('kills it with --on-failure kill', async () => {
    const { cli, socket } = await startHurt('--on-failure', 'kill');
    await expect(runClient(socket, 'a')).rejects.toMatchObject({ signal: 'SIGKILL' });
    expect(await cli.ended).toMatchObject({ code: 13, json: { error: { code: 'EXTENT_DAMAGED' } } });
  });
});

describe('what vmckpt uffd refuses', () => {
  const region = (fields: object) =>
    JSON.stringify([{ base_host_virt_addr: PAGE, size: PAGE, offset: 0, ...fields }]);
  const send = (socket: string, text: string, env: Readonly<Record<string, string>> = {}) =>
    promisify(execFile)(client, [socket, text], { env, timeout: BACKSTOP_MS });
  const sendFromHere = async (socket: string, text: string, fds: number[]) => {
    const fd = connectUnix(socket);
    sendFds(fd, Buffer.from(text), fds);
    closeSync(fd);
  };

  it('hostile handshakes, by name, and then it serves a VM', async () => {
    const { cli, socket } = await startHandler();
    const file = openSync(image, 'r');
    await send(socket, 'GET / HTTP/1.1');
    await send(socket, region({ size: 2 ** 46 }));
    await send(socket, region({ size: -PAGE }));
    await send(socket, `[${region({}).slice(1, -1)},${region({ offset: PAGE }).slice(1)}`);
    await send(socket, region({}), { FDS: '2' });
    await send(socket, region({}), { FEATURES: '0' });
    await send(socket, `${' '.repeat(65_000)}${region({})}${' '.repeat(3000)}`);
    await sendFromHere(socket, region({}), []);
    await sendFromHere(socket, region({}), [file]);
    closeSync(file);
    await runClient(socket, 'ka');
    const { code, stderr } = await cli.ended;
    expect(code).toBe(0);
    const refusals = [
      'expected a JSON array, found \\"GET / HTTP/1.1\\"',
      'but the image has 100663296',
      '0.size',
      'regions 0 and 1 lie at the same addresses',
      'expected one descriptor, received more',
      'lacks the feature EVENT_REMOVE: the VM would find old contents',
      'expected at most 65536 bytes',
      'bytes and 0 descriptors',
      `expected a userfaultfd, but the descriptor is ${image}`,
    ];
    for (const refusal of refusals) expect(stderr).toContain(refusal);
  });

  it('a client that never sends, after a while, and then it serves a VM', async () => {
    const { cli, socket } = await startHandler();
    const silent = net.connect(socket);
    await once(silent, 'connect');
    await runClient(socket, 'a');
    const { code, stderr } = await cli.ended;
    silent.destroy();
    expect(code).toBe(0);
    expect(stderr).toContain('within 5000 ms, received 0 bytes and 0 descriptors');
  });

  it('a path where something else is, but not one that a dead handler has left', async () => {
    const { cli, socket } = await startHandler();
    const again = (where: string) => run(['--json', 'uffd', 'vm', '--socket', where]);
    const refused = (text: string) => ({
      code: 1,
      json: { error: { code: 'FILE_EXISTS', message: expect.stringContaining(text) as string } },
    });
    expect(await again(socket)).toMatchObject(refused('another process listens'));
    expect(await again(image)).toMatchObject(refused('is not a socket'));
    cli.kill('SIGKILL');
    await cli.ended;
    expect(existsSync(socket)).toBe(true);
    const next = startCli(['--store', storeDir, 'uffd', 'vm', '--socket', socket]);
    await runClient(socket, 'k');
    expect(await next.ended).toMatchObject({ code: 0 });
  });
});

describe('a generation of bare memory', () => {
  it('is shown, listed and checked as such', async () => {
    expect((await run(['show', 'vm'])).stdout).toContain('import of bare memory');
    expect((await run(['list'])).stdout).toContain('memory');
    expect(await run(['check', 'vm'])).toMatchObject({ code: 0 });
  });

  it.each([['restore'], ['export']])('is nothing for %s', async (verb) => {
    const args = verb === 'export' ? [at('out')] : [];
    expect(await run(['--json', verb, 'vm', ...args])).toMatchObject({
      code: 14,
      json: { error: { code: 'MEMORY_ONLY' } },
    });
  });

  it.each([
    ['half a page', (file: string) => writeFileSync(file, Buffer.alloc(6000))],
    ['nothing', (file: string) => writeFileSync(file, '')],
    ['a pipe', (file: string) => void execFileSync('mkfifo', [file])],
  ])('is not made from %s', async (title, make) => {
    const file = at(title.replaceAll(' ', '-'));
    make(file);
    const { code, json } = await run(['--json', 'import', '--raw-memory', file, 'bad']);
    expect([code, json]).toMatchObject([1, { error: { code: 'FILE_UNREADABLE' } }]);
    expect(existsSync(path.join(storeDir, 'bad'))).toBe(false);
  });
});
