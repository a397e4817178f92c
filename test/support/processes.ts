/** Processes that must not outlive the test, as those of `vmckpt bench` must not outlive it. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

export * from '../../src/bench/processes.js';

/** What each of the process's descriptors leads to: a path, `pipe:[7]`, `anon_inode:[userfaultfd]`. */
export function openFilesOf(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).flatMap((fd) => {
    try {
      return readlinkSync(`${folder}/${fd}`);
    } catch {
      return []; // closed in the meantime
    }
  });
}

/** The file of a unix socket is there a moment before a process listens. Flag of proc_net(5): __SO_ACCEPTCON. */
export function isListening(socket: string): boolean {
  return readFileSync('/proc/net/unix', 'latin1')
    .split('\n')
    .some((line) => line.endsWith(` ${socket}`) && line.split(' ')[3] === '00010000');
}
