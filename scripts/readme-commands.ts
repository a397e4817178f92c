/**
 * Runs every ```sh block of README.md as it stands there, in order, each in a shell that ends at the first command
 * that fails. What the README takes for given is real here: a VM whose QEMU was started in this folder with
 * `-qmp unix:web.qmp,server=on,wait=off`. A comment above a block says what is special about it:
 *   <!-- in the clone -->       runs in the project's folder, not in the VM's
 *   <!-- not run: REASON -->    is left out
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { PACKAGE_ROOT } from '../src/util/package-paths.js';
import { bootGuest } from '../test/support/guest.js';
import { say } from './demonstration.js';
import { openWorkplace } from './workplace.js';

const README = path.join(PACKAGE_ROOT, 'README.md');
const GUEST = { ramMb: 256, fillMb: 64 };
const BLOCK_TIMEOUT_MS = 300_000;

interface Block {
  readonly line: number;
  readonly inClone: boolean;
  readonly notRun: string | undefined;
  readonly script: string;
}

async function main(): Promise<void> {
  const { dir } = openWorkplace();
  const vmDir = path.join(dir, 'vm');
  mkdirSync(vmDir);
  process.chdir(vmDir);
  const qmp = ['-qmp', 'unix:web.qmp,server=on,wait=off'];
  const guest = await bootGuest({ dir, ...GUEST, extraArgs: qmp });
  await guest.waitReady();

  for (const block of readBlocks(readFileSync(README, 'utf8'))) {
    say(`README.md, line ${block.line}${block.notRun === undefined ? '' : `: not run, ${block.notRun}`}`);
    if (block.notRun === undefined) runBlock(block, { dir, vmDir });
  }
  process.exit();
}

function runBlock(
  { line, inClone, script }: Block,
  { dir, vmDir }: { readonly dir: string; readonly vmDir: string },
): void {
  const prefix = path.join(dir, 'npm');
  // In a file: `pgrep -f` must not find the script that calls it.
  const file = path.join(dir, 'block.sh');
  writeFileSync(file, script);
  const { status, signal } = spawnSync('bash', ['-euo', 'pipefail', file], {
    cwd: inClone ? PACKAGE_ROOT : vmDir,
    stdio: ['ignore', 2, 2],
    timeout: BLOCK_TIMEOUT_MS,
    env: {
      ...process.env,
      // `npm link` must not reach the machine's own packages.
      npm_config_prefix: prefix,
      PATH: `${path.join(prefix, 'bin')}:${process.env['PATH']}`,
      // The test guest's console keeps a log, which an untrusted command line may not.
      VMCKPT_TRUST_COMMAND_LINE: 'true',
    },
  });
  if (status === 0) return;
  throw new Error(`README.md, line ${line}: its commands ended with ${signal ?? `exit code ${status}`}`);
}

function readBlocks(markdown: string): Block[] {
  const blocks: Block[] = [];
  const lines = markdown.split('\n');
  for (let at = 0; at < lines.length; at++) {
    if (lines[at] !== '```sh') continue;
    const end = lines.indexOf('```', at);
    const above = lines.slice(Math.max(0, at - 2), at).join('\n');
    blocks.push({
      line: at + 1,
      inClone: above.includes('<!-- in the clone -->'),
      notRun: /<!-- not run: (.*?) -->/.exec(above)?.[1],
      script: lines.slice(at + 1, end).join('\n'),
    });
    at = end;
  }
  if (blocks.length === 0) throw new Error(`${README} shows no commands`);
  return blocks;
}

await main();
