/** The end of the logs of a restored VM's two processes. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { requireVm } from './folder.js';

const MAX_LOG_BYTES = 1 << 20;

/** A line of the transfer's log: an entry of its logger, or other text. */
export type TransferLogLine = Readonly<Record<string, unknown>> | string;

export interface VmLogs {
  readonly name: string;
  readonly transfer: readonly TransferLogLine[];
  readonly qemu: readonly string[];
}

/** @throws VmckptError NO_SUCH_VM */
export function readVmLogs(name: string): VmLogs {
  const { folder } = requireVm(name);
  return {
    name,
    transfer: lastLines(folder.file('transfer.log')).map(parseLine),
    qemu: lastLines(folder.file('qemu.log')),
  };
}

function lastLines(file: string): string[] {
  let fd: number;
  try {
    fd = openSync(file, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  try {
    const start = Math.max(0, fstatSync(fd).size - MAX_LOG_BYTES);
    const buffer = Buffer.alloc(MAX_LOG_BYTES);
    const lines = buffer.toString('utf8', 0, readSync(fd, buffer, 0, MAX_LOG_BYTES, start)).split('\n');
    return (start === 0 ? lines : lines.slice(1)).filter((line) => line !== '');
  } finally {
    closeSync(fd);
  }
}

function parseLine(line: string): TransferLogLine {
  try {
    const entry = JSON.parse(line) as unknown;
    return typeof entry === 'object' && entry !== null ? (entry as Record<string, unknown>) : line;
  } catch {
    return line;
  }
}
