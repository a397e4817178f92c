import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildProgram } from '../../src/cli/program.js';
import { VERBS } from '../../src/cli/verbs.js';
import { distFile } from '../../src/util/package-paths.js';
import { cliSuite } from '../support/cli.js';

const NAMES = buildProgram(VERBS).commands.map((command) => command.name());

describe('vmckpt', () => {
  const { run } = cliSuite();

  it.each([
    ['no verb', []],
    ['an unknown verb', ['frobnicate']],
    ['an unknown option', ['list', '--frobnicate']],
    ['a missing argument', ['show']],
    ['an argument too many', ['list', 'web']],
    ['options that exclude each other', ['list', '-q', '-v']],
    ['a choice that there is not', ['restore', 'web', '--mode', 'sometimes']],
    ['something that is no VM', ['save', 'web', 'web']],
    ['a monitor on TCP', ['save', 'qmp:tcp:127.0.0.1:4444', 'web']],
    ['a path for mapped memory', ['restore', 'web', '--mode', 'map', '--path', 'direct']],
    ['a layout that there is not', ['save', 'qmp:/nowhere', 'web', '--layout', 'cooked']],
    ['a level that there is not', ['save', 'qmp:/nowhere', 'web', '--level', '99']],
    ['something that is no process id', ['rescue', 'web']],
    ['a shell that there is not', ['completion', 'tcsh']],
  ])('refuses %s as wrong usage', async (_title, args) => {
    const text = await run(args);
    expect(text.code).toBe(2);
    expect(text.stdout).toBe('');
    expect(text.stderr).toMatch(/^vmckpt: /m);
    const { code, stdout, json } = await run(['--json', ...args]);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(json).toMatchObject({ error: { code: 'USAGE', message: expect.any(String) as string } });
  });

  it.each(['--mode=lazy', '--qemu=qemu', '--force', '--detach', '--path=stream', '--trust-command-line'])(
    'refuses %s, by name, beside --resume',
    async (given) => {
      const { code, json } = await run(['--json', 'restore', '--resume', given, 'web']);
      const message = expect.stringMatching(
        new RegExp(`${given.replace(/=.*/, '')} .*--resume exclude each other`),
      ) as string;
      expect([code, json]).toMatchObject([2, { error: { code: 'USAGE', message } }]);
    },
  );

  it.each([
    [['restore', 'web', 'extra'], '"extra"'],
    [['restore', '--as', 'other', 'web', 'disk.img', 'more.img'], '"disk.img"'],
    [['restore', 'web', 'extra', '--', '-m', '1G'], '"extra"'],
    [['restore', 'web', '-m', '1G'], "'-m'"],
    [['restore', '-m', '1G', 'web'], "'-m'"],
  ])('takes no word for QEMU without two dashes: %j', async (args, named) => {
    const { code, json } = await run(['--json', ...args]);
    const error = {
      code: 'USAGE',
      message: expect.stringContaining(named) as string,
      hint: expect.stringMatching(/restore (NAME|web) -- QEMU ARGS/) as string,
    };
    expect([code, json]).toEqual([2, { error }]);
  });

  it.each([[['restore', 'web', '--', '-m', '1G']], [['restore', '--', 'web', '-m', '1G']]])(
    'takes words for QEMU behind two dashes: %j',
    async (args) => {
      expect((await run(args)).code).toBe(10);
    },
  );

  it.each([
    ['a/b'],
    ['..'],
    ['../etc'],
    ['a b'],
    ['💾'],
    ['-'],
    ['.hidden'],
    ['web@'],
    ['web@0'],
    ['web@x'],
    [''],
  ])('refuses the name %j and leaves nothing behind', async (name) => {
    for (const verb of ['show', 'check', 'rm', 'materialize']) {
      const { code, json } = await run(['--json', '--store', '/tmp', verb, '--', name]);
      expect(json).toMatchObject({ error: { code: 'BAD_NAME' } });
      expect(code).toBe(2);
    }
    const vm = await run(['--json', 'stop', '--', name]);
    expect(vm.json).toMatchObject({
      error: { code: 'BAD_NAME', message: expect.stringContaining('the name of a VM') as string },
    });
  });

  it.each([
    ['list'],
    ['check'],
    ['show', 'web'],
    ['check', 'web'],
    ['rm', 'web@1'],
    ['materialize', 'web'],
    ['restore', 'web'],
  ])('says that there is no store to %s %s', async (...args) => {
    const { code, json } = await run(['--json', ...args]);
    expect(json).toMatchObject({ error: { code: 'NO_STORE', hint: expect.any(String) as string } });
    expect(code).toBe(10);
  });

  it.each(NAMES)('explains %s, its variables and its exit codes', async (verb) => {
    const { code, stdout } = await run([verb, '--help']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^Usage: vmckpt /);
    expect(stdout).toMatch(/^Exit codes:\n {2}0 +done$/m);
    const options = buildProgram(VERBS).commands.find((command) => command.name() === verb)!.options;
    for (const { long } of options)
      expect(stdout.replace(/\s+/g, ' ')).toContain(
        `VMCKPT_${long!.slice(2).toUpperCase().replaceAll('-', '_')}`,
      );
  });

  it.each([
    [['help', 'nosuch'], 'there is no verb "nosuch"', 'vmckpt --help'],
    [['nosuch'], 'there is no verb "nosuch"', 'vmckpt --help'],
    [['show'], '<reference> is missing', 'vmckpt help show'],
    [['list', '--nosuch'], "there is no option '--nosuch'", 'vmckpt help list'],
    [['list', 'web'], 'list takes 0 arguments, not 1', 'vmckpt help list'],
    [['list', '-q', '-v'], '-q, --quiet and -v, --verbose exclude each other', 'vmckpt help list'],
    [['restore', 'web', '--mode'], '--mode <mode> has no value', 'vmckpt help restore'],
    [
      ['restore', 'web', '--mode', 'x'],
      '"x" is not a value of --mode <mode>: expected one of prefetch, lazy, eager, map',
      'vmckpt help restore',
    ],
    [
      ['restore', 'web', '--count', 'x'],
      '"x" is not a value of --count <n>: expected a number from 1 to 1000',
      'vmckpt help restore',
    ],
    [
      ['completion', 'tcsh'],
      '"tcsh" is not a <shell>: expected one of bash, zsh, fish',
      'vmckpt help completion',
    ],
    [['uffd', 'web'], '--socket <path> is missing', 'vmckpt help uffd'],
  ])('says what is wrong with %j, in its own words', async (args, message, hint) => {
    const { json } = await run(['--json', ...args]);
    expect(json).toEqual({
      error: { code: 'USAGE', message, hint: expect.stringContaining(hint) as string },
    });
  });

  it('has one meaning for each variable', () => {
    const meanings = new Map<string, Set<string>>();
    for (const command of buildProgram(VERBS).commands)
      for (const { envVar, description } of command.options)
        meanings.set(envVar!, (meanings.get(envVar!) ?? new Set()).add(description));
    expect([...meanings].filter(([, texts]) => texts.size > 1)).toEqual([]);
  });

  it('prefers an option to its variable, and the variable to the default', async () => {
    const variable = await run(['--json', 'list'], { env: { VMCKPT_STORE: '/by-variable' } });
    expect(variable.json).toMatchObject({ error: { message: 'there is no store at /by-variable' } });
    const both = await run(['--json', 'list', '--store', '/by-option'], {
      env: { VMCKPT_STORE: '/by-variable' },
    });
    expect(both.json).toMatchObject({ error: { message: 'there is no store at /by-option' } });
    const json = await run(['list'], { env: { VMCKPT_JSON: '1' } });
    expect(json.json).toMatchObject({ error: { code: 'NO_STORE' } });
    const text = await run(['list'], { env: { VMCKPT_JSON: '0' } });
    expect(text.stderr).toMatch(/^vmckpt: /);
  });

  it('ignores a relative XDG_DATA_HOME', async () => {
    const env = { VMCKPT_STORE: '', HOME: '/nowhere', XDG_DATA_HOME: 'relative' };
    const { json } = await run(['--json', 'list'], { env });
    expect(json).toMatchObject({ error: { message: 'there is no store at /nowhere/.local/share/vmckpt' } });
  });

  it('prints its version', async () => {
    expect((await run(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it('ends quietly when nobody reads on', async () => {
    const child = spawn('sh', ['-c', `"${process.execPath}" "${distFile('cli/main.js')}" man | head -1`]);
    let stderr = '';
    child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
    await once(child, 'close');
    expect(stderr).toBe('');
  });
});

describe('vmckpt with an empty store', () => {
  const { run, storeDir } = cliSuite();
  beforeAll(() => void mkdirSync(storeDir, { recursive: true, mode: 0o700 }));

  it.each([[['list']], [['--json', 'list']], [['ps', '--json']], [['man']], [['completion', 'bash']]])(
    'fails when its result cannot be written: %j',
    async (args) => {
      const full = await run(['--json', ...args], { wrapper: ['sh', '-c', '"$@" >/dev/full', 'sh'] });
      expect(full).toMatchObject({
        code: 1,
        json: { error: { code: 'NO_SPACE', message: expect.stringContaining('stdout') as string } },
      });
      const deaf = await run(args, { wrapper: ['sh', '-c', '"$@" 2>/dev/full', 'sh'] });
      expect(deaf.code).toBe(0);
    },
  );

  it.each(
    NAMES.filter(
      (name) =>
        !['bench', 'completion', 'doctor', 'list', 'man', 'ps', 'save', 'serve', 'tls'].includes(name),
    ),
  )('%s of what is not there fails with one document on stderr', async (name) => {
    mkdirSync(storeDir, { recursive: true, mode: 0o700 });
    const more: Record<string, string[]> = {
      export: ['/tmp/nowhere'],
      uffd: ['--socket', '/tmp/nowhere'],
      import: ['nope'],
      prune: ['--keep-last', '1'],
      pull: ['--from', '/tmp/nowhere'],
      push: ['/tmp/nowhere'],
      replicate: ['/tmp/nowhere'],
    };
    const what = name === 'rescue' ? '4194305' : name === 'rm' ? 'nope@1' : 'nope';
    const { code, stderr } = await run(['--json', name, what, ...(more[name] ?? [])]);
    expect([code, JSON.parse(stderr)]).toEqual([10, { error: expect.any(Object) as object }]);
  });
});
