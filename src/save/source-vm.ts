/**
 * The VM that is saved, by whatever way it is reached: an entry in one table for each way. `qmp:PATH` is a QEMU with a
 * monitor on a unix socket.
 */
import { VmckptError } from '../errors.js';
import { inspectVm, type VmDescription } from '../qemu/inspect.js';
import type { QmpClient } from '../qemu/qmp.js';
import { identifyProcess, untilEnded, type ProcessIdentity } from '../util/process-identity.js';
import { connectToVm } from './putting-right.js';

/** Disks are flushed, and much memory is given back. */
const QUIT_TIMEOUT_MS = 60_000;

export interface SourceVm {
  /** The connection through which its QEMU is asked and told. */
  readonly qmp: QmpClient;
  /** Its QEMU. */
  readonly process: ProcessIdentity;
  describe(): Promise<VmDescription>;
  /** Ends the VM, so that it can be restored. Returns when its process has ended; `onMessage` tells when it has not. */
  end(onMessage: (text: string) => void): Promise<void>;
  close(): Promise<void>;
}

interface Scheme {
  /** What follows the scheme's name. @throws VmckptError USAGE */
  readonly check: (place: string, text: string) => void;
  /** @throws VmckptError QMP_UNREACHABLE and its like, QEMU_DIED */
  readonly open: (place: string, signal: AbortSignal) => Promise<SourceVm>;
}

const SCHEMES: Readonly<Record<string, Scheme>> = {
  qmp: {
    check: refuseTcp,
    open: (place, signal) => MonitoredQemu.connect(socketOf(place), signal),
  },
};

/** A VM as the user names it. @throws VmckptError USAGE before anything is contacted */
export function requireVmAddress(text: string): string {
  const { scheme, place } = schemeOf(text);
  scheme.check(place, text);
  return text;
}

/** @throws VmckptError USAGE, QMP_UNREACHABLE and its like, VM_BUSY when the client that has the monitor is another save */
export function openVm(text: string, signal: AbortSignal): Promise<SourceVm> {
  const { scheme, place } = schemeOf(requireVmAddress(text));
  return scheme.open(place, signal);
}

function schemeOf(text: string): { readonly scheme: Scheme; readonly place: string } {
  const [, name = '', place] = /^(\w+):(.+)$/.exec(text) ?? [];
  const scheme = SCHEMES[name];
  if (scheme !== undefined && place !== undefined) return { scheme, place };
  throw new VmckptError('USAGE', `"${text}" does not name a VM, qmp:/path/to/qmp.sock expected`, {
    hint: 'Start QEMU with -qmp unix:/path/to/qmp.sock,server=on,wait=off.',
  });
}

function socketOf(place: string): string {
  return place.replace(/^unix:(?=.)/, '');
}

function refuseTcp(place: string, text: string): void {
  if (!socketOf(place).startsWith('tcp:')) return;
  throw new VmckptError(
    'USAGE',
    `"${text}" is a monitor on TCP, and vmckpt hands QEMU open files, which only a unix socket can carry`,
    {
      hint: 'Give QEMU a second monitor, which it has from its start on: -qmp unix:/path/to/qmp.sock,server=on,wait=off.',
    },
  );
}

/** A QEMU that is known by its monitor alone. */
class MonitoredQemu implements SourceVm {
  readonly qmp: QmpClient;
  readonly process: ProcessIdentity;

  private constructor(qmp: QmpClient, identity: ProcessIdentity) {
    this.qmp = qmp;
    this.process = identity;
  }

  /** @throws VmckptError as connectToVm(), QEMU_DIED */
  static async connect(socket: string, signal: AbortSignal): Promise<MonitoredQemu> {
    const qmp = await connectToVm(socket, signal);
    const pid = qmp.peerPid();
    const identity = identifyProcess(pid);
    if (identity !== undefined) return new MonitoredQemu(qmp, identity);
    await qmp.close();
    throw new VmckptError('QEMU_DIED', `QEMU's process ${pid} has ended, or is not visible from here`);
  }

  describe(): Promise<VmDescription> {
    return inspectVm(this.qmp);
  }

  async end(onMessage: (text: string) => void): Promise<void> {
    await this.qmp.execute('quit');
    await untilEnded(this.process, QUIT_TIMEOUT_MS).catch(() =>
      onMessage(`QEMU, process ${this.process.pid}, is still ending. The VM can be restored afterwards.`),
    );
  }

  close(): Promise<void> {
    return this.qmp.close();
  }
}
