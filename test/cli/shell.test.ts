import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { buildProgram } from '../../src/cli/program.js';
import { VERBS } from '../../src/cli/verbs.js';
import { distFile } from '../../src/util/package-paths.js';
import { cliSuite } from '../support/cli.js';
import { storeGeneration } from '../support/stored.js';

function installed(program: string): boolean {
  return spawnSync(program, ['--version']).error === undefined;
}

describe('the shell completion', () => {
  const { run, directory, storeDir, runtimeDir } = cliSuite();

  it.each(['bash', 'zsh', 'fish'])('is a script that %s understands', async (shell) => {
    const { code, stdout } = await run(['completion', shell]);
    expect(code).toBe(0);
    for (const command of buildProgram(VERBS).commands) expect(stdout).toContain(command.name());
    if (!installed(shell)) return;
    const file = path.join(directory, `completion.${shell}`);
    writeFileSync(file, stdout);
    const { status, stderr } = spawnSync(shell, ['-n', file], { encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  });

  it.each([
    ['vmckpt re', ['restore', 'replicate', 'rescue']],
    ['vmckpt save --liv', ['--live']],
    ['vmckpt save --live pre', ['precopy']],
    ['vmckpt restore w', ['web', 'web@2', 'web@1']],
    ['vmckpt rm web@', ['2', '1']],
    ['vmckpt save qmp:/x w', ['web']],
    ['vmckpt --json completion z', ['zsh']],
  ])('completes "%s" in bash', async (line, expected) => {
    if ((await run(['show', 'web@2'])).code !== 0)
      for (let generation = 1; generation <= 2; generation++) await storeGeneration(storeDir, 'web');
    const bin = path.join(directory, 'bin');
    mkdirSync(bin, { recursive: true });
    const command = path.join(bin, 'vmckpt');
    writeFileSync(command, `#!/bin/sh\nexec "${process.execPath}" "${distFile('cli/main.js')}" "$@"\n`, {
      mode: 0o755,
    });
    const words = line.split(/\s+/).map((word) => `'${word}'`);
    const script = `PATH="${bin}:$PATH"; COMP_WORDBREAKS=$' \\t\\n"\\'@><=;|&(:'
      source <(vmckpt completion bash)
      COMP_LINE='${line}' COMP_POINT=${line.length} COMP_WORDS=(${words.join(' ')}) COMP_CWORD=${words.length - 1}
      _vmckpt; printf '%s\\n' "\${COMPREPLY[@]}"`;
    const { stdout, stderr } = spawnSync('bash', ['-c', script], {
      encoding: 'utf8',
      env: { ...process.env, VMCKPT_STORE: storeDir, VMCKPT_RUNTIME_DIR: runtimeDir },
    });
    expect(stderr).toBe('');
    expect(stdout.trim().split('\n')).toEqual(expected);
  });
});

describe('the manual page', () => {
  const { run, directory } = cliSuite();

  it('names every verb and option, and passes the checkers that are here', async () => {
    const { code, stdout } = await run(['man']);
    expect(code).toBe(0);
    const plain = stdout.replaceAll('\\-', '-');
    const program = buildProgram(VERBS);
    for (const command of [program, ...program.commands])
      for (const { flags } of command.options) expect(plain).toContain(flags);
    for (const command of program.commands) expect(plain).toContain(`.SS \\fB${command.name()}\\fR`);
    const file = path.join(directory, 'vmckpt.1');
    writeFileSync(file, stdout);
    if (installed('mandoc')) {
      const { stdout: complaints } = spawnSync('mandoc', ['-Tlint', '-Wstyle', file], { encoding: 'utf8' });
      expect(complaints).toBe('');
    }
    if (installed('man')) {
      const { stderr } = spawnSync('man', ['--warnings', '-l', file], { encoding: 'utf8' });
      expect(stderr).toBe('');
    }
  });
});
