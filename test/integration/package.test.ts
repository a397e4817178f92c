/** The package as npm installs it, on a host without a compiler: what it brings along has to do. */
import { execFile } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { examineGuest } from '../support/checkpointing.js';
import { Console } from '../support/console.js';
import { startGuest } from '../support/guest.js';
import { killProcessesOf } from '../support/processes.js';
import { suiteDirectory } from '../support/vitest.js';
import { PACKAGE_ROOT, packageVersion } from '../../src/util/package-paths.js';

const run = promisify(execFile);
/** What an installation may not need. */
const COMPILING = ['node-gyp', 'prebuild-install', 'python3', 'make', 'cc', 'gcc', 'g++', 'c++'];

describe('the package', () => {
  const dir = suiteDirectory();
  const [app, stubs, compiled] = ['app', 'stubs', 'compiled'].map((name) => path.join(dir, name)) as [
    string,
    string,
    string,
  ];
  const installed = path.join(app, 'node_modules/vmckpt');
  const env = {
    ...process.env,
    PATH: `${stubs}:${process.env['PATH']}`,
    VMCKPT_STORE: path.join(dir, 'store'),
    VMCKPT_RUNTIME_DIR: path.join(dir, 'run'),
  };
  let files: string[];

  beforeAll(async () => {
    await run(path.join(PACKAGE_ROOT, 'scripts/prebuild.sh'));
    const pack = ['pack', '--ignore-scripts', '--json', '--pack-destination', dir];
    const { stdout } = await run('npm', pack, { cwd: PACKAGE_ROOT });
    const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
    files = packed.files.map((file) => file.path);
    for (const folder of [app, stubs]) mkdirSync(folder);
    for (const program of COMPILING) {
      const stub = path.join(stubs, program);
      writeFileSync(stub, `#!/bin/sh\necho "$0 $*" >>${compiled}\nexit 1\n`);
      chmodSync(stub, 0o755);
    }
    const install = ['install', '--prefer-offline', '--no-audit', '--no-fund'];
    await run('npm', [...install, path.join(dir, packed.filename)], { cwd: app, env });
  });
  afterAll(() => killProcessesOf(env.VMCKPT_RUNTIME_DIR));

  async function vmckpt(...args: string[]): Promise<unknown> {
    const { stdout } = await run(path.join(app, 'node_modules/.bin/vmckpt'), ['--json', ...args], { env });
    return JSON.parse(stdout);
  }

  it('holds the binaries, and nothing that npm would compile', () => {
    expect(files).toContain(`prebuilds/linux-${process.arch}-glibc/vmckpt_native.node`);
    expect(files.filter((file) => /binding\.gyp|^native\/|^node_modules\/|\/\./.test(file))).toEqual([]);
  });

  it('is installed without a compiler', async () => {
    expect(existsSync(compiled)).toBe(false);
    expect(existsSync(path.join(app, 'node_modules/zstd-napi'))).toBe(false);
    const { stdout } = await run(path.join(app, 'node_modules/.bin/vmckpt'), ['--version'], { env });
    expect(stdout.trim()).toBe(packageVersion());
  });

  it('has its addon, and saves and restores with it', async () => {
    // doctor tells by its exit code that not all is well: there may be no KVM here.
    const doctor = await vmckpt('doctor').catch(
      (error: { stdout: string }) => JSON.parse(error.stdout) as unknown,
    );
    expect((doctor as { checks: unknown[] }).checks).toContainEqual(
      expect.objectContaining({
        check: 'addon',
        status: 'ok',
        found: expect.stringContaining(path.join(installed, 'prebuilds')) as string,
      }),
    );
    const guest = await startGuest({ dir });
    await guest.waitReady();
    const before = await guest.console.nextHeartbeat();
    await vmckpt('save', `qmp:${guest.qmpSocket}`, 'web');
    await guest.stop();
    const restore = ['restore', '--qemu', guest.argv[0]!, '--trust-command-line', '--path', 'direct', 'web'];
    expect(await vmckpt(...restore)).toMatchObject({ name: 'web', path: 'direct' });
    const console = await Console.connect(guest.consoleSocket);
    const whole = { memory: true, disk: true, tmpfs: true, counter: true };
    expect(await examineGuest(console, before)).toEqual(whole);
    console.close();
    await vmckpt('stop', 'web');
  });
});
