/** A process whose memory can be written to as that of a QEMU that does not run yet. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { onTestFinished } from 'vitest';
import { PAGE_BYTES } from '../../src/pages/layout.js';

export interface Target {
  readonly pid: number;
  readonly address: number;
  readonly pageCount: number;
}

const MARKER = 'the memory of a VM';
/** The allocator's header may come before it. */
const MARKER_WITHIN_BYTES = 64;

/** A process that holds still, with zeroed memory for all pages. */
export async function stoppedProcess(pageCount: number): Promise<Target> {
  const source = `globalThis.memory = Buffer.alloc(${pageCount * PAGE_BYTES});
    memory.write('${MARKER}'); console.log('ready'); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['-e', source], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  await once(child.stdout, 'data');
  child.kill('SIGSTOP');
  return { pid: child.pid!, address: findMarker(child.pid!, pageCount), pageCount };
}

function findMarker(pid: number, pageCount: number): number {
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  const found = Buffer.alloc(MARKER_WITHIN_BYTES);
  for (const line of readFileSync(`/proc/${pid}/maps`, 'latin1').split('\n')) {
    const [, start, end] = /^([0-9a-f]+)-([0-9a-f]+) rw-p/.exec(line) ?? [];
    if (start === undefined || end === undefined) continue;
    const endAddress = Number.parseInt(end, 16) - pageCount * PAGE_BYTES;
    for (let address = Number.parseInt(start, 16); address < endAddress; address += PAGE_BYTES) {
      readSync(fd, found, 0, found.length, address);
      if (!found.includes(MARKER)) continue;
      closeSync(fd);
      return address;
    }
  }
  throw new Error('the memory was not found');
}

/** All of it. */
export function memoryOf({ pid, address, pageCount }: Target): Buffer {
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  const bytes = Buffer.alloc(pageCount * PAGE_BYTES);
  readSync(fd, bytes, 0, bytes.length, address);
  closeSync(fd);
  return bytes;
}
