import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { ownEnvironment } from '../util/own-environment.js';
import { distFile } from '../util/package-paths.js';
import type { Aftercare } from '../launch/aftercare.js';
import type { VmFolder } from './vm-record.js';

/** Sets it going where there is something to do. It waits until QEMU's monitor in the folder is free. */
export function beginAftercare(folder: VmFolder, care: Aftercare): void {
  if (care.agentSocket === undefined && care.networks.length === 0) return;
  const log = openSync(folder.file('transfer.log'), 'a', 0o600);
  const child = spawn(
    process.execPath,
    [distFile('restore/aftercare-process.js'), folder.file('qmp.sock'), JSON.stringify(care)],
    { detached: true, env: ownEnvironment(), stdio: ['ignore', log, log] },
  );
  child.on('error', () => undefined); // the VM runs without it
  child.unref();
  closeSync(log);
}
