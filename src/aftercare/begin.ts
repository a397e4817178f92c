import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { debug } from '../util/debug.js';
import { ownEnvironment } from '../util/own-environment.js';
import { distFile } from '../util/package-paths.js';
import type { Aftercare } from './order.js';

export interface AftercareFiles {
  /** The socket of QEMU's monitor. The process waits until the monitor is free. */
  readonly monitorSocket: string;
  readonly logPath: string;
}

/** Starts the aftercare process if there is something to do. */
export function beginAftercare({ monitorSocket, logPath }: AftercareFiles, care: Aftercare): void {
  if (care.agentSocket === undefined && care.networks.length === 0) return;
  const log = openSync(logPath, 'a', 0o600);
  debug('launch', () => `the aftercare at ${monitorSocket}`);
  const child = spawn(
    process.execPath,
    [distFile('aftercare/process.js'), monitorSocket, JSON.stringify(care)],
    { detached: true, env: ownEnvironment(), stdio: ['ignore', log, log] },
  );
  child.on('error', () => undefined); // the VM runs without it
  child.unref();
  closeSync(log);
}
