/**
 * A network namespace with only a loopback, and a runtime folder of its own. In it, the VM that learns has the same
 * ports as the original and its clients reach it as usual, but nothing reaches the outside. The verb runs itself
 * again inside.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import path from 'node:path';
import { EXIT_CODES, VmckptError } from '../errors.js';
import { stopVm } from '../vms/stop.js';
import { listVmFolders } from '../vms/folder.js';
import { asRoot } from '../util/rights.js';
import { homeDir, stateDir } from '../util/user-folders.js';

/** Set in the inner process. */
const INSIDE_VARIABLE = 'VMCKPT_ISOLATED';
const LOOPBACK_UP = ['ip', 'link', 'set', 'dev', 'lo', 'up'] as const;

export function isIsolated(): boolean {
  const isAlone = Object.keys(networkInterfaces()).every((name) => name === 'lo');
  return isAlone && process.env[INSIDE_VARIABLE] !== undefined;
}

/**
 * Runs this process's own command line inside, with the same output. Passes interrupts on.
 * @returns its exit code
 * @throws VmckptError NOT_PERMITTED where such a network is impossible
 */
export async function runIsolated(): Promise<number> {
  const enter = ['--net', ...(process.getuid?.() === 0 ? [] : ['--map-root-user']), '--'];
  requireNamespaces(enter);
  const runtimeDir = mkdtempSync(path.join(tmpdir(), 'vmckpt-learn-'));
  try {
    // The child ends with this process. It gets an interrupt from the terminal only once, from here.
    const command = ['setpriv', '--pdeathsig', 'TERM', '--', process.execPath, ...process.argv.slice(1)];
    const script = `${LOOPBACK_UP.join(' ')} && exec "$@"`;
    const inside = spawn('unshare', [...enter, 'sh', '-c', script, 'sh', ...command], {
      stdio: ['ignore', 'inherit', 'inherit'],
      env: {
        ...process.env,
        [INSIDE_VARIABLE]: '1',
        VMCKPT_RUNTIME_DIR: runtimeDir,
        // Inside, the user database knows this user as root.
        HOME: homeDir(),
        XDG_STATE_HOME: path.dirname(stateDir()),
      },
      detached: true,
    });
    // A second interrupt does not wait for the reaction to the first.
    let asked = false;
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.on(signal, () => {
        inside.kill(asked ? 'SIGKILL' : signal);
        asked = true;
      });
    const [code] = (await once(inside, 'exit')) as [number | null];
    return code ?? EXIT_CODES.interrupted;
  } finally {
    await endVmsOf(runtimeDir);
    rmSync(runtimeDir, { recursive: true, force: true });
  }
}

/** Ends VMs that a killed inner process left. */
async function endVmsOf(runtimeDir: string): Promise<void> {
  process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
  for (const { name } of listVmFolders()) await stopVm(name).catch(() => undefined); // it may have none
}

function requireNamespaces(enter: readonly string[]): void {
  const { status, stderr, error } = spawnSync('unshare', [...enter, ...LOOPBACK_UP], { encoding: 'utf8' });
  if (status === 0) return;
  throw new VmckptError(
    'NOT_PERMITTED',
    `an isolated network for the VM cannot be created: ${(error?.message ?? stderr).trim()}`,
    {
      hint: `${asRoot('Run vmckpt learn', 'CAP_SYS_ADMIN')}, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1). Debian has unshare in util-linux, and ip in iproute2.`,
    },
  );
}
