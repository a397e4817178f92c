/**
 * Runs every ```sh block of README.md as it stands there, in order, each in a shell that ends at the first command
 * that fails. What the README takes for given is real here: a VM whose QEMU was started in this folder with
 * `-qmp unix:web.qmp,server=on,wait=off`. No variable changes what vmckpt does; HOME, and npm's prefix, are folders of
 * our own. `--alone` is for a user who has nothing else on this machine: then even vmckpt's runtime folder is where
 * that user would have it. A comment above a block says what is special about it:
 *   <!-- in the clone -->          runs in the project's folder, not in the VM's
 *   <!-- in the clone; once, … --> the same, and is left out with --alone
 *   <!-- needs userfaultfd -->     is left out where this user may not use that
 *   <!-- may end with 3 -->        its last command may
 *   <!-- on alpha -->              runs in a network namespace, whose neighbour is beta; likewise on beta, who has a home
 *                                  and VMs of its own. Left out where this user may not make network namespaces
 *   <!-- on alpha, until beta is done --> its command goes on while the blocks of beta that follow run, and is then
 *                                  interrupted, as with Ctrl-C
 *   <!-- not run: REASON -->       is left out
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { EXIT_CODES } from '../src/errors.js';
import { distFile, PACKAGE_ROOT } from '../src/util/package-paths.js';
import { bootGuest } from '../test/support/guest.js';
import { say } from './demonstration.js';
import { joinHosts, type Hosts } from './two-hosts.js';
import { openWorkplace } from './workplace.js';

const README = path.join(PACKAGE_ROOT, 'README.md');
const GUEST = { ramMb: 256, fillMb: 64 };
const BLOCK_TIMEOUT_MS = 300_000;

interface Block {
  readonly line: number;
  /** The comment above it; empty without one. */
  readonly note: string;
  readonly script: string;
}

interface Place {
  readonly dir: string;
  readonly vmDir: string;
  readonly env: NodeJS.ProcessEnv;
  /** Undefined where this user may not make them. */
  readonly hosts: Hosts | undefined;
}

async function main(): Promise<void> {
  const isAlone = process.argv.includes('--alone');
  const { dir } = openWorkplace();
  const vmDir = path.join(dir, 'vm');
  const env = environment(dir, isAlone);
  mkdirSync(vmDir);
  process.chdir(vmDir);
  const qmp = ['-qmp', 'unix:web.qmp,server=on,wait=off'];
  const guest = await bootGuest({ dir, ...GUEST, extraArgs: qmp });
  await guest.waitReady();

  const mayFault = mayUseUserfaultfd(env);
  const hosts = process.getuid?.() === 0 ? joinHosts(dir) : undefined;
  const place = { dir, vmDir, env, hosts };
  let serving: ChildProcess | undefined;
  for (const block of readBlocks(readFileSync(README, 'utf8'))) {
    const whyNot = reasonToSkip(block, { isAlone, mayFault, mayJoin: hosts !== undefined });
    say(`README.md, line ${block.line}${whyNot === undefined ? '' : `: not run, ${whyNot}`}`);
    if (whyNot !== undefined) continue;
    if (serving !== undefined && hostOf(block) !== 'beta') serving = void (await interrupt(serving));
    if (block.note.endsWith('until beta is done')) serving = await startBlock(block, place);
    else runBlock(block, place);
  }
  process.exit();
}

function environment(dir: string, isAlone: boolean): NodeJS.ProcessEnv {
  const [home, prefix] = [path.join(dir, 'home'), path.join(dir, 'npm')];
  mkdirSync(home);
  const inherited = Object.entries(process.env).filter(([name]) => !/^(VMCKPT|XDG)_/.test(name));
  const runtimeDir = process.env['VMCKPT_RUNTIME_DIR'];
  return {
    ...Object.fromEntries(inherited),
    HOME: home,
    // `npm link` must not reach the machine's own packages.
    npm_config_prefix: prefix,
    PATH: `${path.join(prefix, 'bin')}:${process.env['PATH']}`,
    // The VMs that this user has besides are let alone.
    ...(!isAlone && { VMCKPT_RUNTIME_DIR: runtimeDir }),
  };
}

function mayUseUserfaultfd(env: NodeJS.ProcessEnv): boolean {
  const { stdout } = spawnSync(process.execPath, [distFile('cli/main.js'), '--json', 'doctor'], { env });
  const { checks } = JSON.parse(stdout.toString()) as { checks: { check: string; status: string }[] };
  return checks.some(({ check, status }) => check === 'lazy-restore' && status === 'ok');
}

function reasonToSkip(
  { note }: Block,
  {
    isAlone,
    mayFault,
    mayJoin,
  }: { readonly isAlone: boolean; readonly mayFault: boolean; readonly mayJoin: boolean },
): string | undefined {
  if (!mayJoin && note.startsWith('on ')) return 'this user may not make network namespaces';
  if (isAlone && note.includes('; once')) return 'it has been';
  if (!mayFault && note === 'needs userfaultfd') return 'this user may not use userfaultfd';
  return /^not run: (.*)$/.exec(note)?.[1];
}

function runBlock(block: Block, place: Place): void {
  const { line, note } = block;
  const [command, ...args] = commandOf(block, place);
  const { status, signal } = spawnSync(command!, args, {
    cwd: note.startsWith('in the clone') ? PACKAGE_ROOT : place.vmDir,
    stdio: ['ignore', 2, 2],
    timeout: BLOCK_TIMEOUT_MS,
    env: environmentOf(block, place),
  });
  if (status === 0 || (status === EXIT_CODES.partial && note === `may end with ${status}`)) return;
  throw new Error(`README.md, line ${line}: its commands ended with ${signal ?? `exit code ${status}`}`);
}

/** Returns when its command says that it serves. */
async function startBlock(block: Block, place: Place): Promise<ChildProcess> {
  const [command, ...args] = commandOf(block, place);
  const child = spawn(command!, args, {
    cwd: place.vmDir,
    stdio: ['ignore', 2, 'pipe'],
    // A group of its own, like a terminal's, to be interrupted as a whole.
    detached: true,
    env: environmentOf(block, place),
  });
  process.once('exit', () => child.kill('SIGKILL'));
  const ended = once(child, 'exit').then(([status]) => {
    throw new Error(`README.md, line ${block.line}: its command ended with exit code ${status}`);
  });
  ended.catch(() => undefined);
  const serves = new Promise<void>((resolve) => {
    child.stderr!.on('data', (text: Buffer) => {
      process.stderr.write(text);
      if (text.includes('Serving')) resolve();
    });
  });
  await Promise.race([serves, ended]);
  return child;
}

async function interrupt(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit');
  process.kill(-child.pid!, 'SIGINT');
  await ended;
}

/** In a file: `pgrep -f` must not find the script that calls it. */
function commandOf(block: Block, { dir, hosts }: Place): string[] {
  const file = path.join(dir, `block-${block.line}.sh`);
  writeFileSync(file, block.script);
  const shell = ['bash', '-euo', 'pipefail', file];
  const host = hostOf(block);
  return host === undefined ? shell : [...hosts!.enter(host), ...shell];
}

function environmentOf(block: Block, { dir, env }: Place): NodeJS.ProcessEnv {
  if (hostOf(block) !== 'beta') return env;
  const home = path.join(dir, 'home-of-beta');
  mkdirSync(home, { recursive: true });
  return { ...env, HOME: home, VMCKPT_RUNTIME_DIR: path.join(home, 'run') };
}

function hostOf({ note }: Block): 'alpha' | 'beta' | undefined {
  return /^on (alpha|beta)\b/.exec(note)?.[1] as 'alpha' | 'beta' | undefined;
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
      note: /<!-- (.*?) -->/.exec(above)?.[1] ?? '',
      script: lines.slice(at + 1, end).join('\n'),
    });
    at = end;
  }
  if (blocks.length === 0) throw new Error(`${README} shows no commands`);
  return blocks;
}

await main();
