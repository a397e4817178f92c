/** Exit codes of verbs for what users meet, and manifests that somebody has made up: no verb ends as by a bug of ours. */
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import { VmckptError } from '../../src/errors.js';
import { xxh3 } from '../../src/native/index.js';
import { cliSuite, isRoot, WITHOUT_CAPABILITIES } from '../support/cli.js';
import { storeGeneration } from '../support/stored.js';
import { ownPack } from '../support/packs.js';

describe('the exit code', () => {
  const { run, storeDir, runtimeDir, directory } = cliSuite();
  let dir: string;

  beforeAll(async () => {
    dir = await storeGeneration(storeDir, 'web');
    await storeGeneration(storeDir, 'newer', {
      commandLine: ['-machine', 'pc-q35-99.9', '-display', 'none'],
    });
    mkdirSync(path.join(runtimeDir, 'vms', 'torn'), { recursive: true, mode: 0o700 });
    writeFileSync(path.join(runtimeDir, 'vms', 'torn', 'vm.json'), '{"name": 7');
  });

  it.each<[number, string[]]>([
    [2, ['restore']],
    [2, ['restore', '../web']],
    [2, ['restore', 'web@0']],
    [2, ['rm', 'web']],
    [2, ['no-such-verb']],
    [2, ['--store', '/nonexistent', 'restore', 'a/b']],
    [2, ['--store', '/nonexistent', 'restore', '--as', 'a/b', 'web']],
    [2, ['--store', '/nonexistent', 'learn', 'a/b']],
    [2, ['--store', '/nonexistent', 'export', 'a/b', '/tmp/never']],
    [2, ['--store', '/nonexistent', 'materialize', 'web@x']],
    [2, ['--store', '/nonexistent', 'check', 'a/b']],
    [2, ['--store', '/nonexistent', 'show', 'a/b']],
    [2, ['--store', '/nonexistent', 'rm', 'a/b@1']],
    [2, ['--store', '/nonexistent', 'uffd', 'a/b', '--socket', '/tmp/never']],
    [2, ['save', 'qmp:/tmp/nobody.sock', 'a/b']],
    [2, ['import', '/tmp/no-such-file', 'a/b']],
    [10, ['import', '/tmp/no-such-file', 'web']],
    [10, ['import', '--raw-memory', '/tmp/no-such-file', 'web']],
    [10, ['restore', 'wbe']],
    [10, ['check', 'web@7']],
    [10, ['materialize', 'wbe']],
    [10, ['export', 'wbe', '/tmp/never']],
    [10, ['uffd', 'wbe', '--socket', '/tmp/never']],
    [10, ['save', 'qmp:/tmp/nobody.sock', 'web']],
    [10, ['stop', 'nobody']],
    [10, ['logs', 'nobody']],
    [10, ['restore', '--resume', 'nobody']],
    [2, ['restore', '--resume', 'nobody', '--', '-m', '1G']],
    [2, ['restore', '--resume', '--run', 'nobody']],
    [2, ['restore', '--resume', '--as', 'other', 'nobody']],
    [10, ['restore', '--trust-command-line', '--qemu', 'qemu-system-none', 'web']],
    [10, ['--store', '/nonexistent', 'list']],
    [10, ['stop', 'torn']],
    [0, ['ps']],
    [1, ['restore', '--trust-command-line', '--qemu', '/bin/false', 'web']],
    [1, ['restore', '--mode', 'eager', '--trust-command-line', '--qemu', '/bin/false', 'web']],
    [14, ['restore', '--trust-command-line', 'newer']],
    [14, ['restore', '--trust-command-line', 'web', '--', '-vga', 'nosuch']],
    [14, ['restore', '--mode', 'eager', '--trust-command-line', 'newer']],
    [14, ['uffd', 'web', '--socket', '/tmp/never']],
  ])('is %i for %j', async (code, args) => {
    const ended = await run(['--json', ...args]);
    expect([ended.code, ended.stderr]).toEqual([code, expect.not.stringContaining('bug in vmckpt')]);
    expect(ownPathsIn(ended.stderr).filter((file) => !existsSync(file))).toEqual([]);
  });

  /** What is named is there to be looked at. */
  const ownPathsIn = (text: string) =>
    Array.from(text.matchAll(/\/[^\s"',;:()]+/g), ([file]) => file.replace(/\.$/, '')).filter((file) =>
      file.startsWith(runtimeDir),
    );

  it('is not that of an address in use where the user may not look', async () => {
    const socket = path.join(directory, 'closed.sock');
    const server = net.createServer().listen(socket);
    await once(server, 'listening');
    onTestFinished(() => void server.close());
    chmodSync(socket, 0);
    await storeGeneration(storeDir, 'closed', { commandLine: ['-qmp', `unix:${socket},server=on,wait=off`] });
    const wrapper = isRoot ? WITHOUT_CAPABILITIES : [];
    const { code, stderr } = await run(['restore', '--trust-command-line', 'closed'], { wrapper });
    expect([code, stderr]).toEqual([
      1,
      expect.stringContaining('is a socket that this user may not connect to'),
    ]);
  });

  it('comes with the name that the user gave a copy', async () => {
    const own = await storeGeneration(storeDir, 'own', { commandLine: ['-serial', 'file:/etc/serial'] });
    cpSync(own, path.join(storeDir, 'copy', '7'), { recursive: true });
    const { code, stderr } = await run(['restore', 'copy']);
    expect([code, stderr]).toEqual([12, expect.stringContaining('"copy" is not known')]);
    const shown = await run(['--json', 'show', 'copy']);
    expect(shown.json).toMatchObject({ name: 'copy', generation: 7 });
  });

  it('is 13 for a generation that lacks a file', async () => {
    for (const file of [path.basename(ownPack(dir)), 'manifest.json']) {
      renameSync(path.join(dir, file), path.join(directory, file));
      for (const verb of [
        ['show'],
        ['check'],
        ['export'],
        ['materialize'],
        ['restore'],
        ['uffd', '--socket', '/x'],
      ]) {
        const out = verb[0] === 'export' ? [path.join(directory, 'out')] : [];
        const { code, stdout, stderr } = await run([...verb, 'web', ...out]);
        expect([verb[0], code, stdout + stderr]).toEqual([verb[0], 13, expect.stringContaining(`"${file}"`)]);
      }
      renameSync(path.join(directory, file), path.join(dir, file));
    }
  });
});

describe('a manifest that somebody has made up', () => {
  const { storeDir, run } = cliSuite();

  it('is refused as damaged, or as good as a true one', async () => {
    const dir = await storeGeneration(storeDir, 'hostile');
    const file = path.join(dir, 'manifest.json');
    const whole = readFileSync(file);
    const paths = pathsOf(JSON.parse(whole.toString()));
    const values = [
      '1e308',
      '1e999',
      '-1',
      '9007199254740991',
      '0.5',
      '"x"',
      'null',
      '[]',
      '{}',
      'true',
      '[[]]',
    ];
    for (const field of paths)
      for (const value of values) {
        writeFileSync(file, sealed(replaced(JSON.parse(whole.toString()) as Json, field, value)));
        const work = async () => {
          readManifest(dir);
          await checkCheckpoint(dir);
        };
        await work().catch((error: unknown) => {
          if (!(error instanceof VmckptError))
            throw new Error(`${field.join('.')}: ${value}`, { cause: error });
        });
      }
    writeFileSync(file, whole);
  });

  it('may be deep, or a gibibyte long', async () => {
    const dir = await storeGeneration(storeDir, 'large');
    const file = path.join(dir, 'manifest.json');
    const whole = readFileSync(file);
    const depth = 1 << 20;
    writeFileSync(
      file,
      sealed(whole.toString().replace('{', `{"deep": ${'['.repeat(depth)}${']'.repeat(depth)},`)),
    );
    expect([0, 13]).toContain((await run(['show', 'large'])).code);
    truncateSync(file, 2 ** 30);
    for (const verb of [['show'], ['check'], ['restore']])
      expect(await run([...verb, 'large'])).toMatchObject({ code: 13 });
  });
});

type Json = Record<string, unknown>;

/** Every field but the checksum, a list's first item for all of them. */
function pathsOf(value: unknown, at: readonly string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [[...at]];
  const inside = Object.entries(value).filter(([key]) => key !== 'manifestXxh3' && !/^[1-9]/.test(key));
  return [
    ...(at.length > 0 ? [[...at]] : []),
    ...inside.flatMap(([key, each]) => pathsOf(each, [...at, key])),
  ];
}

/** The document's text with `json` in the place of a field. */
function replaced(document: Json, field: readonly string[], json: string): string {
  let parent = document;
  for (const key of field.slice(0, -1)) parent = parent[key] as Json;
  parent[field.at(-1)!] = '@';
  return JSON.stringify(document, undefined, 2).replace('"@"', json);
}

/** With a checksum that fits. */
function sealed(text: string): string {
  const covered = `${text.slice(0, text.indexOf('  "manifestXxh3"'))}`;
  const checksum = xxh3(Buffer.from(covered)).toString(16).padStart(16, '0');
  return `${covered}  "manifestXxh3": "${checksum}"\n}\n`;
}
