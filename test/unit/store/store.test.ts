import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { CheckpointWriter } from '../../../src/checkpoint/writer.js';
import { PAGE_BYTES, RamLayout } from '../../../src/pages/layout.js';
import { holdGeneration } from '../../../src/store/generation-use.js';
import { Store } from '../../../src/store/store.js';
import { distFile } from '../../../src/util/package-paths.js';
import { manifestParts, syntheticPage, temporaryDir } from '../checkpoint/synthetic.js';

const layout = new RamLayout([{ name: 'pc.ram', usedBytes: 16 * PAGE_BYTES }]);
const isRoot = process.getuid?.() === 0;

async function save(store: Store, name: string): Promise<number> {
  const pending = await store.begin(name);
  const writer = CheckpointWriter.create(pending.dir, { layout, level: 1 });
  for (let page = 0; page < 16; page++) writer.data(page, syntheticPage(page), 0);
  await writer.finish(manifestParts({ name, generation: pending.generation }), new Uint8Array(10));
  await pending.commit();
  return pending.generation;
}

function newStore(): Promise<Store> {
  return Store.openOrCreate(path.join(temporaryDir(), 'store'));
}

describe('Store', () => {
  it('heeds an interrupt until it gives a generation its number, and not from there on', async () => {
    const store = await newStore();
    const early = new AbortController();
    early.abort(new Error('early'));
    const pending = await store.begin('web');
    const onCommit = () => expect.unreachable();
    await expect(pending.commit({ signal: early.signal, onCommit })).rejects.toThrow('early');
    await pending.abort();
    const late = new AbortController();
    const next = await store.begin('web');
    await next.commit({ signal: late.signal, onCommit: () => late.abort() });
    expect(await store.generations('web')).toEqual([1]);
  });

  it('numbers generations, lists them, and finds the newest one by default', async () => {
    const store = await newStore();
    expect(await save(store, 'web')).toBe(1);
    expect(await save(store, 'web')).toBe(2);
    expect(await save(store, 'db.1')).toBe(1);
    const listed = await store.list();
    expect(listed.map(({ name, generation }) => `${name}@${generation}`)).toEqual([
      'db.1@1',
      'web@1',
      'web@2',
    ]);
    expect(listed[0]).toMatchObject({ facts: { runState: 'running' }, problem: undefined });
    expect(await store.locate('web')).toMatchObject({ name: 'web', number: 2 });
    expect(await store.locate('web@1')).toMatchObject({ dir: path.join(store.dir, 'web/1') });
  });

  it('lists a damaged generation with what is wrong, beside the others', async () => {
    const store = await newStore();
    await save(store, 'web');
    await save(store, 'web');
    writeFileSync(path.join(store.dir, 'web/1/manifest.json'), '{');
    const [first, second] = await store.list();
    expect(first).toMatchObject({ facts: undefined, problem: { code: 'MANIFEST_DAMAGED' } });
    expect(second?.problem).toBeUndefined();
  });

  it('keeps everything to its owner', async () => {
    const store = await newStore();
    await save(store, 'web');
    for (const dir of [store.dir, path.join(store.dir, 'web'), path.join(store.dir, 'web/1')])
      expect(statSync(dir).mode & 0o777).toBe(0o700);
    expect(statSync(path.join(store.dir, 'web/lock')).mode & 0o777).toBe(0o600);
  });

  it.each([
    '',
    'a/b',
    '..',
    '.hidden',
    '-rf',
    'two words',
    'vm🎉',
    'a\0b',
    'x'.repeat(129),
    'web@0',
    'web@1.5',
    'web@',
  ])('refuses the name %j', async (name) => {
    const store = await newStore();
    await expect(store.locate(name)).rejects.toMatchObject({ code: 'BAD_NAME' });
    if (!name.startsWith('web@')) await expect(store.begin(name)).rejects.toMatchObject({ code: 'BAD_NAME' });
    expect(readdirSync(store.dir)).toEqual([]);
  });

  it('says which names are near when one is not there, and which generations exist', async () => {
    const store = await newStore();
    await save(store, 'webserver');
    await expect(store.locate('webservre')).rejects.toMatchObject({
      code: 'NO_CHECKPOINT',
      hint: 'Did you mean webserver?',
    });
    await expect(store.locate('webserver@7')).rejects.toMatchObject({
      code: 'NO_CHECKPOINT',
      hint: 'Its generations: 1',
    });
    for (const name of ['web', 'web-1', 'web-2', 'web-30', 'web-40']) await save(store, name);
    await expect(store.locate('we')).rejects.toMatchObject({ hint: 'Did you mean web, web-1, web-2?' });
  });

  it('reports a missing store, and does not make one by opening it', async () => {
    const dir = path.join(temporaryDir(), 'none');
    await expect(Store.open(dir)).rejects.toMatchObject({ code: 'NO_STORE' });
    expect(existsSync(dir)).toBe(false);
    writeFileSync(dir, 'a file');
    await expect(Store.openOrCreate(dir)).rejects.toMatchObject({ code: 'NO_STORE' });
  });

  it.skipIf(!isRoot)(
    'refuses what another user owns unless that user is trusted (needs root to try)',
    async () => {
      const store = await newStore();
      await save(store, 'web');
      chownSync(path.join(store.dir, 'web/1'), 1234, 1234);
      await expect(store.locate('web')).rejects.toMatchObject({ code: 'STORE_FOREIGN_OWNER' });
      chownSync(store.dir, 1234, 1234);
      await expect(Store.open(store.dir)).rejects.toMatchObject({ code: 'STORE_FOREIGN_OWNER' });
      const trusting = await Store.open(store.dir, { trustForeign: true });
      expect(await trusting.locate('web')).toMatchObject({ number: 1 });
    },
  );

  it.skipIf(!isRoot)(
    'reads from a read-only file system and refuses to write there (needs root to mount)',
    async () => {
      const store = await newStore();
      await save(store, 'web');
      execFileSync('mount', ['--bind', store.dir, store.dir]);
      onTestFinished(() => void execFileSync('umount', [store.dir]));
      execFileSync('mount', ['-o', 'remount,bind,ro', store.dir]);
      const readOnly = await Store.open(store.dir);
      expect(await readOnly.list()).toHaveLength(1);
      const { dir } = await readOnly.locate('web');
      holdGeneration(dir).release();
      await expect(readOnly.begin('web')).rejects.toMatchObject({ code: 'STORE_NOT_WRITABLE' });
      await expect(readOnly.begin('new')).rejects.toMatchObject({ code: 'STORE_NOT_WRITABLE' });
      await expect(readOnly.remove('web@1')).rejects.toMatchObject({ code: 'STORE_NOT_WRITABLE' });
    },
  );
});

describe('a generation being written', () => {
  it('is not made where a file or a link to nothing is in the way', async () => {
    const dir = temporaryDir();
    writeFileSync(path.join(dir, 'file'), '');
    symlinkSync('nowhere', path.join(dir, 'link'));
    for (const name of ['file', 'link'])
      await expect(Store.openOrCreate(path.join(dir, name))).rejects.toMatchObject({
        code: 'NO_STORE',
        message: expect.stringContaining('not a folder') as string,
      });
  });

  it('is invisible until it is committed, and leaves nothing when it is aborted', async () => {
    const store = await newStore();
    const pending = await store.begin('web');
    expect(await store.list()).toEqual([]);
    await expect(store.locate('web')).rejects.toMatchObject({ code: 'STORE_LOCKED' });
    await pending.abort();
    await pending.abort();
    expect(readdirSync(store.dir)).toEqual([]);
  });

  it('keeps a second writer of the same name out, whose error names the first, but not one of another name', async () => {
    const store = await newStore();
    const pending = await store.begin('web');
    await expect(store.begin('web')).rejects.toMatchObject({
      code: 'STORE_LOCKED',
      message: expect.stringContaining(`process ${process.pid}`) as string,
    });
    expect(await save(store, 'db')).toBe(1);
    await pending.abort();
    expect(await save(store, 'web')).toBe(1);
  });

  it('whose writer was killed is told from one that never was, and is cleared away by the next writer', async () => {
    const store = await newStore();
    await save(store, 'web');
    const nameDir = path.join(store.dir, 'web');
    const script = `
      const { Store } = await import(${JSON.stringify(distFile('index.js'))});
      const pending = await (await Store.open(${JSON.stringify(store.dir)})).begin('web');
      process.stdout.write(pending.dir); setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const exited = once(child, 'exit');
    onTestFinished(() => void child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    await expect(store.locate('web@2')).rejects.toMatchObject({
      code: 'STORE_LOCKED',
      message: `web@2 is being written by process ${child.pid}`,
    });
    await expect(store.begin('web')).rejects.toMatchObject({ code: 'STORE_LOCKED' });
    await expect(store.locate('web')).resolves.toMatchObject({ number: 1 });
    child.kill('SIGKILL');
    await exited;
    await expect(store.locate('web@2')).rejects.toMatchObject({ code: 'GENERATION_INCOMPLETE' });
    await expect(store.locate('web@3')).rejects.toMatchObject({ code: 'NO_CHECKPOINT' });
    expect(await save(store, 'web')).toBe(2);
    expect(readdirSync(nameDir).sort()).toEqual(['1', '2', 'lock']);
  });

  it('is given to exactly one of many writers that begin at once', async () => {
    const store = await newStore();
    const attempts = await Promise.allSettled(Array.from({ length: 20 }, () => store.begin('web')));
    const pending = attempts.filter((attempt) => attempt.status === 'fulfilled');
    expect(pending).toHaveLength(1);
    await pending[0]!.value.abort();
    expect(readdirSync(store.dir)).toEqual([]);
  });
});

describe('removing', () => {
  it('removes one generation, and the name with its last one', async () => {
    const store = await newStore();
    await save(store, 'web');
    await save(store, 'web');
    await store.remove('web@1');
    expect(await store.generations('web')).toEqual([2]);
    await store.remove('web@2');
    expect(readdirSync(store.dir)).toEqual([]);
    await expect(store.remove('web@2')).rejects.toMatchObject({ code: 'NO_CHECKPOINT' });
  });

  it('does not guess which generation is meant', async () => {
    const store = await newStore();
    await save(store, 'web');
    await expect(store.remove('web')).rejects.toMatchObject({ code: 'USAGE' });
  });

  it('refuses a generation that is in use, whoever else uses it or has used it', async () => {
    const store = await newStore();
    await save(store, 'web');
    const { dir } = await store.locate('web');
    const uses = [holdGeneration(dir), holdGeneration(dir)];
    uses[0]!.release();
    await expect(store.remove('web@1')).rejects.toMatchObject({
      code: 'STORE_LOCKED',
      message: `web@1 is in use by process ${process.pid}`,
    });
    expect(readFileSync(path.join(dir, 'manifest.json'), 'utf8')).toContain('"web"');
    uses[1]!.release();
    uses[1]!.release();
    // What a killed user has left behind is no use.
    writeFileSync(path.join(store.dir, 'web/.use-1-99-abcd'), '99\n');
    await store.remove('web@1');
    expect(readdirSync(store.dir)).toEqual([]);
  });

  it('loses the locks of users that were killed to whoever uses it next, and never one that is held', async () => {
    const store = await newStore();
    await save(store, 'web');
    const { dir } = await store.locate('web');
    const users = [1, 2].map(() => {
      const use = holdGeneration(dir);
      const user = spawn('/bin/sleep', ['600'], { stdio: ['ignore', 'ignore', 'ignore', use.fd] });
      onTestFinished(() => void user.kill('SIGKILL'));
      use.leaveTo(user.pid!);
      return user;
    });
    const [killed, living] = users;
    const ended = once(killed!, 'exit');
    killed!.kill('SIGKILL');
    await ended;
    const held = () => readdirSync(path.join(store.dir, 'web')).filter((file) => file.startsWith('.use-'));
    expect(await store.staleUses()).toHaveLength(1);
    expect(held()).toHaveLength(2);
    holdGeneration(dir).release();
    const [left, ...more] = held();
    expect(more).toEqual([]);
    expect(readFileSync(path.join(store.dir, 'web', left!), 'utf8')).toBe(`${living!.pid}\n`);
    expect(await store.staleUses()).toEqual([]);
  });

  it('refuses a generation that was left to a child, as long as that lives', async () => {
    const store = await newStore();
    await save(store, 'web');
    const { dir } = await store.locate('web');
    const use = holdGeneration(dir);
    const child = spawn('/bin/sleep', ['600'], { stdio: ['ignore', 'ignore', 'ignore', use.fd] });
    onTestFinished(() => void child.kill('SIGKILL'));
    use.leaveTo(child.pid!);
    use.release();
    await expect(store.remove('web@1')).rejects.toMatchObject({
      code: 'STORE_LOCKED',
      message: `web@1 is in use by process ${child.pid}`,
    });
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    await store.remove('web@1');
    expect(readdirSync(store.dir)).toEqual([]);
  });

  it('refuses while the name is being written, and a use of what is gone is refused', async () => {
    const store = await newStore();
    await save(store, 'web');
    const pending = await store.begin('web');
    await expect(store.remove('web@1')).rejects.toMatchObject({ code: 'STORE_LOCKED' });
    await pending.abort();
    const { dir } = await store.locate('web@1');
    await store.remove('web@1');
    expect(() => holdGeneration(dir)).toThrow(expect.objectContaining({ code: 'NO_CHECKPOINT' }) as Error);
    mkdirSync(path.join(store.dir, 'web'));
    expect(() => holdGeneration(dir)).toThrow(expect.objectContaining({ code: 'NO_CHECKPOINT' }) as Error);
  });
});
