/**
 * Boots the test guest, saves it, and restores it lazily again and again under each workload; keeps the traces, and
 * which pages one fault brings, in fixtures/traces. test/support/recorded-traces.ts reads them.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { brotliCompressSync } from 'node:zlib';
import { startDownloads } from '../src/bench/clients/http.js';
import { AnswerLog, type ClientJob } from '../src/bench/clients/load.js';
import { startGets } from '../src/bench/clients/memcached.js';
import { loadMemcached } from '../src/bench/workloads.js';
import { Hints } from '../src/checkpoint/hints.js';
import { CheckpointReader } from '../src/checkpoint/reader.js';
import { PACKAGE_ROOT } from '../src/util/package-paths.js';
import { encodeTrace } from '../src/working-set/codec.js';
import { readWorkingSet } from '../src/working-set/file.js';
import { installUnits } from '../src/working-set/units.js';
import { restoreGuest, saveGuest } from '../test/support/checkpointing.js';
import { bootGuest, type Guest } from '../test/support/guest.js';
import { openWorkplace, settleHost } from './workplace.js';

const USAGE = `usage: scripts/record-traces.sh [--runs N] [--qemu system|10|PATH] [--out DIR]`;
const RAM_MIB = 256;
const VALUES = { keyCount: 2_500, valueBytes: 4000 };

/** Rejects by the signal alone. */
type StartClients = (job: ClientJob, log: AnswerLog, signal: AbortSignal) => Promise<void>;

const WORKLOADS: Readonly<Record<string, StartClients>> = {
  idle: async () => undefined,
  memcached: startGets,
  http: async (...load) => startDownloads(...load),
};

interface Recording {
  readonly guest: Guest;
  readonly storeDir: string;
  readonly qemu: string;
  /** Of the RAM, all blocks. */
  readonly pageCount: number;
  readonly startClients: StartClients;
  readonly seed: number;
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '10' },
      qemu: { type: 'string', default: 'system' },
      out: { type: 'string', default: path.join(PACKAGE_ROOT, 'fixtures/traces') },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return console.log(USAGE);
  const { qemu, out } = values;
  const { dir, storeDir } = openWorkplace();
  const guest = await bootGuest({ dir, qemu, ramMb: RAM_MIB });
  await guest.waitReady();
  await loadMemcached({ port: guest.ports.memcached, ...VALUES });
  await guest.console.idle();
  await saveGuest(guest, { storeDir, name: 'web' });
  await guest.stop();
  mkdirSync(out, { recursive: true });
  const reader = await CheckpointReader.open(path.join(storeDir, 'web/1'));
  write(path.join(out, 'units.br'), leaderDistances(reader));
  const place = { guest, storeDir, qemu, pageCount: reader.layout.pageCount };
  // The first one finds a cold host.
  await record({ ...place, startClients: WORKLOADS['idle']!, seed: 0 });
  for (const [workload, startClients] of Object.entries(WORKLOADS)) {
    const traces: Buffer[] = [];
    for (let run = 1; run <= Number(values.runs); run++)
      traces.push(await record({ ...place, startClients, seed: run }));
    write(path.join(out, `${workload}.br`), Buffer.concat(traces));
  }
  process.exit(0);
}

/** One restore's trace, encoded. */
async function record({ guest, storeDir, qemu, pageCount, startClients, seed }: Recording): Promise<Buffer> {
  await settleHost(guest.ramBytes);
  const clients = new AbortController();
  const { ports } = guest;
  const job = { ports, values: VALUES, seed };
  startClients(job, new AnswerLog(), clients.signal).catch(() => undefined);
  const restored = await restoreGuest(guest, { storeDir, reference: 'web', qemu, path: 'direct' });
  clients.abort();
  await restored.stop();
  const { workingSet } = readWorkingSet(Hints.beside(path.join(storeDir, 'web/1')), pageCount);
  return encodeTrace(workingSet.lastTrace!);
}

/** For each page how far it lies behind the first page of its unit, 16 bits each. */
function leaderDistances(reader: CheckpointReader): Buffer {
  const units = installUnits(reader);
  const distances = Uint16Array.from({ length: units.pageCount }, (_, page) => page - units.leaderOf(page));
  return Buffer.from(distances.buffer);
}

function write(file: string, bytes: Buffer): void {
  const compressed = brotliCompressSync(bytes);
  writeFileSync(file, compressed);
  console.log(`${file}: ${compressed.length} bytes`);
}

await main();
