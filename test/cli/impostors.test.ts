/** Something else in the place of a file of a generation is refused at once and by name, by every verb. */
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync, chmodSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { checkCheckpoint } from '../../src/checkpoint/check.js';
import { GENERATION_FILES } from '../../src/checkpoint/format.js';
import { readManifest } from '../../src/checkpoint/manifest.js';
import { VmckptError, type ErrorCode } from '../../src/errors.js';
import { exportMachine } from '../../src/interchange/export.js';
import { importMemory } from '../../src/interchange/import-memory.js';
import { materialize } from '../../src/interchange/materialize.js';
import { teachWorkingSet } from '../../src/save/teach.js';
import { Store } from '../../src/store/store.js';
import { checkRawMemory } from '../../src/transfer/raw-memory.js';
import { serveMemory } from '../../src/uffd/serve.js';
import { cliSuite, isRoot, WITHOUT_CAPABILITIES } from '../support/cli.js';
import { IMPOSTORS, putEmpty, watchdog, withImpostor } from '../support/impostors.js';
import { storeGeneration } from '../support/stored.js';
import { ownPack } from '../support/packs.js';

/** A generation has one pack; `pack` stands for it. */
const CORE = [...Object.values(GENERATION_FILES), 'pack'];

function coreFile(dir: string, file: string): string {
  return file === 'pack' ? path.basename(ownPack(dir)) : file;
}

const HINTS = ['working-set', 'hot-pack', 'prefetch-plan', '.working-set.tmp', '.hot-pack.tmp'];
const nothing = { onProgress: () => undefined, onMessage: () => undefined };

describe('in the place of a file of a generation', () => {
  const { run, storeDir, directory } = cliSuite();
  watchdog();
  let dir: string;
  let heirDir: string;
  let memoryDir: string;
  const signal = AbortSignal.abort(new VmckptError('INTERRUPTED', 'far enough'));

  beforeAll(async () => {
    dir = await storeGeneration(storeDir, 'web');
    heirDir = await storeGeneration(storeDir, 'heir');
    const file = path.join(directory, 'memory');
    writeFileSync(file, Buffer.alloc(1 << 20, 7));
    await importMemory({
      storeDir,
      name: 'bare',
      level: 1,
      file,
      signal: new AbortController().signal,
      ...nothing,
    });
    memoryDir = path.join(storeDir, 'bare', '1');
  });

  /** What each verb says, by its code. */
  async function answers(): Promise<Record<string, { code: ErrorCode; message: string } | undefined>> {
    const live = new AbortController().signal;
    const options = { storeDir, reference: 'web', signal: live, ...nothing };
    for (const made of ['raw-memory', 'raw-memory.json'])
      rmSync(path.join(dir, made), { recursive: true, force: true });
    const list = (await (await Store.open(storeDir)).list()).find(({ name }) => name === 'web')!.problem;
    const check = (await checkCheckpoint(dir)).problems[0];
    const file = path.join(directory, 'exported');
    const target = { file, overwrite: true };
    return {
      list,
      check,
      export: await refusal(() => exportMachine({ ...options, target })),
      materialize: await refusal(() => materialize(options)),
      'save after it': await refusal(() =>
        teachWorkingSet({ dir: heirDir, formerDir: dir, dirtyPages: [1] }),
      ),
    };
  }

  async function serving(): Promise<VmckptError | undefined> {
    const socketPath = path.join(directory, 'uffd.sock');
    const options = {
      storeDir,
      reference: 'bare',
      socketPath,
      demandOnly: false,
      onPeer: () => undefined,
      ...nothing,
    };
    return refusal(() => serveMemory({ ...options, onFailure: 'report', signal }));
  }

  for (const which of CORE)
    it(`${which}, nothing else is opened, missed, or taken for it`, async () => {
      const file = coreFile(dir, which);
      const kinds: [string, (at: string, moved: string) => void, ErrorCode | undefined][] = [
        ...Object.entries(IMPOSTORS).map(
          ([kind, put]) =>
            [kind, put, 'NOT_A_FILE'] satisfies [string, (typeof IMPOSTORS)[string], ErrorCode],
        ),
        ['no file', () => undefined, 'FILE_MISSING'],
        ['an empty file', putEmpty, undefined],
      ];
      for (const [kind, put, code] of kinds) {
        const found = await withImpostor(path.join(dir, file), put, answers);
        for (const verb of ['check', 'export', 'list', 'materialize'] as const) {
          const answer = found[verb];
          expect(answer, `${verb}, ${kind}`).toBeDefined();
          if (code !== undefined) expect(answer, `${verb}, ${kind}`).toMatchObject({ code });
          expect(new VmckptError(answer!.code, '').exitCode, `${verb}, ${kind}`).toBe(13);
          expect(answer!.message.replace('device state', 'device-state'), `${verb}, ${kind}`).toContain(
            file.replace('.json', ''),
          );
          if (code === 'NOT_A_FILE') expect(answer!.message).toContain(kind);
        }
        expect(found['save after it'], kind).toBeUndefined();
        if (file === GENERATION_FILES.deviceState) continue;
        const served = await withImpostor(path.join(memoryDir, coreFile(memoryDir, which)), put, serving);
        expect(served, `uffd, ${kind}`).toMatchObject({ kind: 'damaged', ...(code && { code }) });
      }
      expect((await answers())['check']).toBeUndefined();
      expect(await serving()).toMatchObject({ code: 'INTERRUPTED' });
    });

  it('a hint, it is as good as none, and said', async () => {
    for (const file of HINTS) {
      for (const kind of ['a FIFO', 'a symbolic link', 'a folder']) {
        writeFileSync(path.join(dir, file), 'hint');
        const found = await withImpostor(path.join(dir, file), IMPOSTORS[kind]!, answers);
        expect(
          Object.values(found).filter((answer) => answer !== undefined),
          kind,
        ).toEqual([]);
      }
      rmSync(path.join(dir, file));
    }
    writeFileSync(path.join(dir, 'working-set'), 'hint');
    const shown = await withImpostor(path.join(dir, 'working-set'), IMPOSTORS['a FIFO']!, () =>
      run(['show', 'web']),
    );
    expect(shown).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/working-set is a FIFO/) as string,
    });
    rmSync(path.join(dir, 'working-set'));
  });

  it('raw memory or its note, it is told, and made again when that is asked for', async () => {
    const options = { storeDir, reference: 'web', signal: new AbortController().signal, ...nothing };
    for (const file of ['raw-memory', 'raw-memory.json'])
      for (const [kind, put] of Object.entries(IMPOSTORS)) {
        await materialize(options);
        await withImpostor(path.join(dir, file), put, async () => {
          const answer = await refusal(() => checkRawMemory(dir));
          expect(answer, kind).toMatchObject({ code: 'RAW_MEMORY_CHANGED' });
          expect(answer!.message).toMatch(new RegExp(`${file} is ${kind}, expected a regular file$`));
          if (kind !== 'a folder') await materialize(options);
        });
      }
    expect(readManifest(dir).name).toBe('web');
    await materialize(options);
  });

  it('a lock or a use, it is no lock, and whoever needs one says so', async () => {
    const lock = path.join(storeDir, 'web', 'lock');
    const use = path.join(storeDir, 'web', '.use-1-materialize');
    writeFileSync(lock, '');
    for (const [kind, put] of Object.entries(IMPOSTORS)) {
      const taken = await withImpostor(lock, put, async () => {
        expect((await answers())['check']).toBeUndefined();
        return refusal(async () => (await Store.open(storeDir)).begin('web'));
      });
      expect(taken, kind).toMatchObject({ code: 'NOT_A_FILE' });
      writeFileSync(use, '');
      const used = await withImpostor(use, put, () =>
        refusal(() => materialize({ storeDir, reference: 'web', signal, ...nothing })),
      );
      expect(used, kind).toMatchObject({ code: 'NOT_A_FILE' });
      rmSync(use);
    }
    rmSync(lock);
  });

  it('every verb of the command ends with the documented code', async () => {
    await withImpostor(ownPack(dir), IMPOSTORS['a FIFO']!, async () => {
      const verbs = [
        ['show', 'web'],
        ['check', 'web'],
        ['check'],
        ['export', 'web', path.join(directory, 'out')],
        ['materialize', 'web'],
        ['restore', 'web', '--trust-command-line'],
        ['restore', 'web', '--mode', 'map', '--trust-command-line'],
        ['restore', 'web', '--mode', 'eager', '--trust-command-line'],
      ];
      for (const verb of verbs) {
        const { code, stdout, stderr } = await run(verb);
        expect([...verb, code, stdout + stderr].join(' ')).toMatch(/ 13 .*pack-\w+ is a FIFO/s);
      }
      expect(await run(['list'])).toMatchObject({
        code: 0,
        stdout: expect.stringMatching(/^web .* NOT_A_FILE$/m) as string,
      });
    });
  });

  it('a folder of a generation, it is refused; a store and a name may be links', async () => {
    const [one, elsewhere] = [path.join(storeDir, 'web', '1'), path.join(directory, 'elsewhere')];
    renameSync(one, elsewhere);
    symlinkSync(elsewhere, one);
    for (const verb of ['show', 'check', 'rm']) {
      const { code, stdout, stderr } = await run([verb, 'web@1']);
      expect([code, stdout + stderr]).toEqual([
        13,
        expect.stringMatching(/1 is a symbolic link, expected a folder/),
      ]);
    }
    rmSync(one);
    renameSync(elsewhere, one);
    const linked = path.join(directory, 'linked');
    mkdirSync(linked, { mode: 0o700 });
    symlinkSync(path.join(storeDir, 'web'), path.join(linked, 'web'));
    symlinkSync(linked, path.join(directory, 'store-link'));
    expect(await run(['--store', path.join(directory, 'store-link'), 'check', 'web'])).toMatchObject({
      code: 0,
    });
  });

  it.skipIf(!isRoot)('a file that may not be read is named as such', async () => {
    for (const file of CORE.map((which) => coreFile(dir, which))) {
      chmodSync(path.join(dir, file), 0);
      const { code, stderr } = await run(['check', 'web'], { wrapper: WITHOUT_CAPABILITIES });
      expect([code, stderr]).toEqual([12, expect.stringContaining(file)]);
      chmodSync(path.join(dir, file), 0o600);
    }
  });
});

async function refusal(work: () => Promise<unknown>): Promise<VmckptError | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    if (error instanceof VmckptError) return error;
    throw error;
  }
}
