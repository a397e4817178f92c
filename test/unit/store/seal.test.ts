/** The user's key, and the seal that tells this user's generations from all others. */
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { encodeManifest, readManifest } from '../../../src/checkpoint/manifest.js';
import { ensureSealKey, readSealKey, sealKeyFile } from '../../../src/store/seal-key.js';
import { readSealedManifest, writeSeal, type SealVerdict } from '../../../src/store/seal.js';
import { stateDir } from '../../../src/util/user-folders.js';
import { temporaryDir } from '../checkpoint/synthetic.js';
import { storeGeneration } from '../../support/stored.js';

const isRoot = process.getuid?.() === 0;
let home: string;

beforeEach(() => {
  home = temporaryDir();
  useHome({ HOME: home, XDG_STATE_HOME: undefined });
});

/** Until the test ends. */
function useHome(variables: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(variables)) vi.stubEnv(name, value);
  onTestFinished(() => void vi.unstubAllEnvs());
}

async function sealedGeneration(): Promise<string> {
  const dir = await storeGeneration(path.join(home, 'store'), 'web');
  await writeSeal(dir, fs.readFileSync(path.join(dir, 'manifest.json')), await ensureSealKey());
  return dir;
}

function judge(dir: string): SealVerdict {
  return readSealedManifest(dir).judgeSeal();
}

describe('the key', () => {
  it('is made once, for its user alone, in the state folder', async () => {
    expect(readSealKey()).toBeUndefined();
    const { id } = await ensureSealKey();
    expect(sealKeyFile()).toBe(path.join(home, '.local/state/vmckpt/seal-key'));
    expect(fs.statSync(sealKeyFile()).mode & 0o777).toBe(0o600);
    expect(fs.statSync(stateDir()).mode & 0o777).toBe(0o700);
    expect((await ensureSealKey()).id).toBe(id);
    expect(fs.readdirSync(stateDir())).toEqual(['seal-key']);
    expect(JSON.stringify(await ensureSealKey())).not.toContain(
      fs.readFileSync(sealKeyFile()).toString('hex').slice(0, 8),
    );
  });

  it('is the same for all who make it at once', async () => {
    const ids = await Promise.all(Array.from({ length: 8 }, async () => (await ensureSealKey()).id));
    expect(new Set(ids).size).toBe(1);
  });

  it.each([0o640, 0o604, 0o620, 0o666])('with mode %o is refused by name', async (mode) => {
    await ensureSealKey();
    fs.chmodSync(sealKeyFile(), mode);
    for (const use of [async () => readSealKey(), ensureSealKey])
      await expect(use()).rejects.toMatchObject({
        code: 'NOT_PERMITTED',
        message: expect.stringContaining(`${sealKeyFile()} cannot be used: other users may read`) as string,
        hint: expect.stringContaining('next save makes a new one') as string,
      });
  });

  it('in a folder that others can write to, or as a link, a FIFO or a wrong length, is refused', async () => {
    await ensureSealKey();
    fs.chmodSync(stateDir(), 0o777);
    expect(() => readSealKey()).toThrow(/vmckpt cannot be used: other users/);
    fs.chmodSync(stateDir(), 0o700);
    fs.renameSync(sealKeyFile(), path.join(home, 'elsewhere'));
    fs.symlinkSync(path.join(home, 'elsewhere'), sealKeyFile());
    expect(() => readSealKey()).toThrow(/seal-key is a symbolic link, expected a regular file/);
    fs.rmSync(sealKeyFile());
    await promisify(execFile)('mkfifo', ['-m', '600', sealKeyFile()]);
    expect(() => readSealKey()).toThrow(/seal-key is a FIFO, expected a regular file/);
    fs.rmSync(sealKeyFile());
    fs.writeFileSync(sealKeyFile(), Buffer.alloc(31), { mode: 0o600 });
    expect(() => readSealKey()).toThrow(/not a key of 32 bytes/);
  });

  it.skipIf(!isRoot)('of another user is refused (needs root to make one)', async () => {
    await ensureSealKey();
    fs.chownSync(sealKeyFile(), 1234, 1234);
    expect(() => readSealKey()).toThrow(/belongs to user 1234, and this is user 0/);
  });

  it('that cannot be made says why', async () => {
    useHome({ XDG_STATE_HOME: '/proc/here' });
    await expect(ensureSealKey()).rejects.toMatchObject({
      message: expect.stringMatching(/^\/proc\/here\/vmckpt\/seal-key cannot be used: ENOENT/) as string,
    });
  });
});

describe('the state folder', () => {
  it('follows XDG_STATE_HOME when that is absolute', () => {
    useHome({ XDG_STATE_HOME: '/x/state' });
    expect(stateDir()).toBe('/x/state/vmckpt');
    useHome({ XDG_STATE_HOME: 'state' });
    expect(stateDir()).toBe(path.join(home, '.local/state/vmckpt'));
  });

  it("is in the registered home without HOME, and with another user's", () => {
    const registered = path.join(homeOf(), '.local/state/vmckpt');
    for (const HOME of [undefined, '', 'relative', '/gone']) {
      useHome({ HOME });
      expect(stateDir()).toBe(registered);
    }
    if (!isRoot) return;
    fs.chownSync(home, 1234, 1234);
    useHome({ HOME: home });
    expect(stateDir()).toBe(registered);
  });
});

function homeOf(): string {
  const line = fs
    .readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((entry) => Number(entry.split(':')[2]) === process.getuid!());
  return line!.split(':')[5]!;
}

describe('a seal', () => {
  it('is good for what was sealed with this key, wherever it lies', async () => {
    const dir = await sealedGeneration();
    expect(judge(dir)).toEqual({ status: 'own' });
    expect(fs.statSync(path.join(dir, 'seal')).mode & 0o777).toBe(0o600);
    fs.renameSync(dir, path.join(home, 'moved'));
    expect(judge(path.join(home, 'moved'))).toEqual({ status: 'own' });
  });

  it('does not fit a manifest that was changed, its checksum too', async () => {
    const dir = await sealedGeneration();
    const manifest = readManifest(dir);
    const edited = { ...manifest, commandLine: [...manifest.commandLine, '-s'] };
    fs.writeFileSync(path.join(dir, 'manifest.json'), encodeManifest(edited));
    expect(judge(dir)).toMatchObject({
      status: 'changed',
      reason: expect.stringContaining('changed') as string,
    });
  });

  it('of another key, or with none of this user, is no good', async () => {
    const dir = await sealedGeneration();
    fs.rmSync(sealKeyFile());
    expect(judge(dir)).toMatchObject({
      status: 'other-key',
      reason: expect.stringContaining('no key') as string,
    });
    expect(fs.existsSync(sealKeyFile())).toBe(false);
    await ensureSealKey();
    expect(judge(dir)).toMatchObject({
      status: 'other-key',
      reason: expect.stringContaining(sealKeyFile()) as string,
    });
  });

  it('is no good while others can read the key', async () => {
    const dir = await sealedGeneration();
    fs.chmodSync(sealKeyFile(), 0o644);
    expect(judge(dir)).toMatchObject({
      status: 'unreadable',
      reason: expect.stringContaining('644') as string,
    });
  });

  it('that is missing, damaged, or no file is told apart', async () => {
    const dir = await sealedGeneration();
    const seal = path.join(dir, 'seal');
    const text = fs.readFileSync(seal, 'utf8');
    const damage = [
      text.replace(/"tag":"./, '"tag":"g'),
      text.slice(0, 40),
      '',
      text.replace('"sealVersion":1', '"sealVersion":2'),
      `${'x'.repeat(5000)}${text}`,
    ];
    for (const damaged of damage) {
      fs.writeFileSync(seal, damaged);
      expect(judge(dir)).toMatchObject({ status: 'unreadable' });
    }
    fs.rmSync(seal);
    expect(judge(dir)).toEqual({ status: 'missing', reason: 'it has no seal' });
    await promisify(execFile)('mkfifo', [seal]);
    expect(judge(dir)).toMatchObject({ status: 'unreadable' });
  });

  it('of which one hexadecimal digit is another does not fit', async () => {
    const dir = await sealedGeneration();
    const seal = path.join(dir, 'seal');
    const text = fs.readFileSync(seal, 'utf8');
    fs.writeFileSync(
      seal,
      text.replace(/"tag":"(.)/, (_all, digit: string) => `"tag":"${digit === '0' ? '1' : '0'}`),
    );
    expect(judge(dir)).toMatchObject({ status: 'changed' });
  });

  it('is missing in an import, which says so', async () => {
    const dir = await storeGeneration(path.join(home, 'store'), 'web', { mode: 'import' });
    expect(judge(dir)).toEqual({ status: 'missing', reason: 'it was imported, and has no seal' });
  });
});
