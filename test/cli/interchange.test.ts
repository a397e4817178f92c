import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { HEADER_BYTES } from '../../src/checkpoint/format.js';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { PAGE_BYTES, RamLayout } from '../../src/pages/layout.js';
import { cliSuite } from '../support/cli.js';
import { startCli } from '../support/command.js';
import { untilSaid } from '../support/faults.js';
import { readStream } from '../unit/interchange/machines.js';
import { buildStream, SMALL_STREAM } from '../unit/migration-stream/streams.js';
import { ownPack } from '../support/packs.js';

describe('vmckpt import and export', () => {
  const { run, directory, storeDir } = cliSuite();
  const stream = buildStream(SMALL_STREAM);
  const file = path.join(directory, 'vm.stream');
  const at = (name: string): string => path.join(directory, name);

  /** With a shell around the command, which is `"$@"` in its script. */
  const runIn = (script: string, args: readonly string[]) =>
    run(args, { wrapper: ['bash', '-o', 'pipefail', '-c', script, 'bash'] });

  beforeAll(async () => {
    writeFileSync(file, stream);
    expect(await run(['import', file, 'vm'])).toMatchObject({ code: 0 });
  });

  it('report as JSON', async () => {
    const imported = await run(['--json', 'import', file, 'json', '--', '-m', '64']);
    expect(imported.code).toBe(0);
    expect(Object.keys(imported.json as object)).toEqual([
      ...['name', 'generation', 'ramBytes', 'nonZeroBytes', 'storedBytes', 'totalMs'],
    ]);
    expect(readManifest(path.join(storeDir, 'json', '1')).commandLine).toEqual(['-m', '64']);
    const exported = await run(['--json', 'export', 'json@1', at('json.stream')]);
    const { length: fileBytes } = readFileSync(at('json.stream'));
    expect(exported.json).toMatchObject({ name: 'json', generation: 1, fileBytes });
  });

  it('go through pipes and redirections', async () => {
    expect(await runIn(`cat ${file} | "$@"`, ['import', '-', 'piped'])).toMatchObject({ code: 0 });
    for (const script of [`"$@" | cat > ${at('piped')}`, `"$@" > ${at('piped')}`]) {
      const { code, stdout, stderr } = await runIn(script, ['export', 'piped', '-']);
      expect([code, stdout]).toEqual([0, '']);
      expect(stderr).toContain('Exported piped@1');
      expect(readStream(readFileSync(at('piped')))).toEqual(readStream(stream));
    }
  });

  it('end with an error when the other end of the pipe goes away', async () => {
    const layout = new RamLayout([{ name: 'pc.ram', usedBytes: 256 * PAGE_BYTES }]);
    const parts = [Array.from({ length: 256 }, (_, page) => ({ page, seed: page }))];
    writeFileSync(at('longer'), buildStream({ layout, parts }));
    await run(['import', at('longer'), 'longer']);
    const { code, stderr } = await runIn('"$@" | head -c 100', ['export', 'longer', '-']);
    expect(code).toBe(1);
    expect(stderr).toContain('cannot write the stream');
  });

  it('replace a file only with --overwrite', async () => {
    writeFileSync(at('old'), 'old');
    const { code, json } = await run(['--json', 'export', 'vm', at('old')]);
    expect([code, json]).toMatchObject([1, { error: { code: 'FILE_EXISTS' } }]);
    expect(readFileSync(at('old'), 'utf8')).toBe('old');
    expect(await run(['export', '--overwrite', 'vm', at('old')])).toMatchObject({ code: 0 });
    expect(readStream(readFileSync(at('old')))).toEqual(readStream(stream));
  });

  it.each([
    ['export', (file: string) => ['export', 'vm', file]],
    ['uffd', (file: string) => ['uffd', 'bare', '--socket', file]],
    ['bench', (file: string) => ['bench', 'resume', '--out', file]],
  ])('say which folder is missing for the output of %s', async (verb, args) => {
    writeFileSync(at('memory'), Buffer.alloc(2 * PAGE_BYTES, 1));
    await run(['import', '--raw-memory', at('memory'), 'bare']);
    // What makes its folder itself is stopped by a file only.
    const folder = verb === 'bench' ? at('memory') : at('nowhere');
    const { code, json } = await run(['--json', ...args(path.join(folder, 'x'))]);
    expect([code, json]).toMatchObject([
      10,
      { error: { code: 'HOST_FILE_MISSING', message: expect.stringContaining(folder) as string } },
    ]);
  });

  it('say once that stdout cannot be written to', async () => {
    const { code, stderr } = await runIn('"$@" >/dev/full', ['export', 'vm', '-']);
    expect([code, stderr.match(/^vmckpt: .*ENOSPC/gm)?.length]).toEqual([1, 1]);
  });

  it('say that the current folder is gone', async () => {
    const script = `cd "$(mktemp -d)" && rmdir "$PWD" && "$@"`;
    for (const args of [
      ['--store', 'relative', 'list'],
      ['export', 'vm', 'relative'],
    ]) {
      const { code, stderr } = await runIn(script, args);
      expect([code, stderr]).toEqual([10, expect.stringContaining('the current folder') as string]);
    }
  });

  it('name the checkpoint in a hint of what to run', async () => {
    expect((await run(['--json', 'restore', 'vm'])).json).toMatchObject({
      error: { hint: expect.stringContaining('vmckpt restore vm -- QEMU ARGS') as string },
    });
  });

  it('refuse to mix the stream with a JSON document', async () => {
    const { code, stdout, json } = await run(['--json', 'export', 'vm', '-']);
    expect([code, stdout, json]).toMatchObject([2, '', { error: { code: 'USAGE' } }]);
  });

  it.each([
    ['a damaged stream', () => stream.subarray(0, 900), 13, 'STREAM_TRUNCATED'],
    ['a libvirt save file', () => Buffer.from('LibvirtQemudSave'), 14, 'FORMAT_UNSUPPORTED'],
  ])('refuse %s and keep nothing', async (_title, bytes, exitCode, errorCode) => {
    writeFileSync(at('bad'), bytes());
    const { code, json } = await run(['--json', 'import', at('bad'), 'bad']);
    expect([code, json]).toMatchObject([exitCode, { error: { code: errorCode } }]);
    expect(existsSync(path.join(storeDir, 'bad'))).toBe(false);
  });

  it('give no file of a damaged generation', async () => {
    await run(['import', file, 'hurt']);
    const pages = ownPack(path.join(storeDir, 'hurt', '1'));
    const bytes = readFileSync(pages);
    bytes[HEADER_BYTES + 8]! ^= 1;
    writeFileSync(pages, bytes);
    const before = readdirSync(directory);
    const { code, json } = await run(['--json', 'export', 'hurt', at('hurt.stream')]);
    expect([code, json]).toMatchObject([13, { error: { code: 'EXTENT_DAMAGED' } }]);
    expect(readdirSync(directory)).toEqual(before);
  });

  it('end on a signal, whatever a thread of theirs waits for, and tell what holds', async () => {
    writeFileSync(at('memory'), Buffer.alloc(2 * PAGE_BYTES, 1));
    await run(['import', '--raw-memory', at('memory'), 'waiting']);
    execFileSync('mkfifo', [at('fifo')]);
    // Opening it takes until another process does the same, in a thread of Node's pool.
    writeFileSync(at('wait.cjs'), `require('fs').open('${at('fifo')}', 'r', () => undefined)`);
    const server = startCli(['--store', storeDir, 'uffd', 'waiting', '--socket', at('socket')], {
      env: { NODE_OPTIONS: `--require ${at('wait.cjs')}` },
    });
    await untilSaid(server, 'Waiting for a VM');
    server.kill('SIGTERM');
    const { code, stderr } = await server.ended;
    expect(code).toBe(130);
    expect(stderr).toContain('\nInterrupted.\n');
  });
});
