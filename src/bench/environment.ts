/** Describes the machine of a measurement. Figures mean nothing without it. */
import { randomFillSync } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { packageVersion } from '../util/package-paths.js';
import { bringTo } from './page-cache.js';
import type { Environment } from './resume-report.js';

const READ_BYTES = 1 << 20;
const WRITTEN_BYTES = 128 << 20;

/** What is known before QEMU runs. */
export type HostDescription = Omit<Environment, 'qemu' | 'accelerator' | 'diskReadBytesPerS' | 'loadAtEnd'>;

export function describeHost(): HostDescription {
  const [cpu] = os.cpus();
  const flags = /^flags\s*:.*$/m.exec(readText('/proc/cpuinfo') ?? '')?.[0] ?? '';
  const huge = readText('/sys/kernel/mm/transparent_hugepage/enabled');
  return {
    vmckpt: packageVersion(),
    node: process.version,
    kernel: `${os.type()} ${os.release()}`,
    distribution: /^PRETTY_NAME="?([^"\n]*)/m.exec(readText('/etc/os-release') ?? '')?.[1] ?? null,
    cpuModel: cpu?.model.trim() ?? 'unknown',
    cpuCount: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    transparentHugePages: /\[(\w+)\]/.exec(huge ?? '')?.[1] ?? null,
    isVirtual: /\bhypervisor\b/.test(flags),
    loadAtStart: os.loadavg()[0]!,
    startedAt: new Date().toISOString(),
  };
}

/** Measures how fast a file is read that was dropped from the page cache. */
export async function diskReadRate(file: string): Promise<number> {
  await bringTo('cold', [file]);
  const startMs = performance.now();
  let bytes = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: READ_BYTES }))
    bytes += (chunk as Buffer).length;
  return Math.round((bytes * 1000) / (performance.now() - startMs));
}

/** Measures the disk below a folder, sequentially: writing includes the fsync, and what is read is not cached. */
export async function diskRates(
  dir: string,
): Promise<{ readonly diskWriteBytesPerS: number; readonly diskReadBytesPerS: number }> {
  const file = path.join(dir, 'disk-rate');
  const chunk = randomFillSync(Buffer.alloc(READ_BYTES));
  const startMs = performance.now();
  const handle = await open(file, 'w');
  try {
    for (let at = 0; at < WRITTEN_BYTES; at += chunk.length) await handle.write(chunk);
    await handle.sync();
  } finally {
    await handle.close();
  }
  const diskWriteBytesPerS = Math.round((WRITTEN_BYTES * 1000) / (performance.now() - startMs));
  const diskReadBytesPerS = await diskReadRate(file);
  await rm(file);
  return { diskWriteBytesPerS, diskReadBytesPerS };
}

function readText(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return undefined;
  }
}
