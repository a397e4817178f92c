/**
 * Boots the test guest and says how to reach it, until Ctrl-C. The work is the test harness's. Its directory
 * stays: a VM restored from this one has its sockets there.
 */
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bootGuest } from '../test/support/guest.js';
import { waitUntilGone } from '../test/support/processes.js';

const USAGE =
  'usage: scripts/guest.sh [--ram MB] [--fill MB] [--smp N] [--machine q35|pc] [--qemu system|10|11|PATH]';

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      ram: { type: 'string', default: '1024' },
      fill: { type: 'string', default: '700' },
      smp: { type: 'string', default: '1' },
      machine: { type: 'string', default: 'q35' },
      qemu: { type: 'string', default: 'system' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return console.log(USAGE);
  const dir = mkdtempSync(path.join(tmpdir(), 'vmckpt-'));
  process.on('SIGINT', () => process.exit());
  process.on('SIGTERM', () => process.exit());

  const guest = await bootGuest({
    dir,
    qemu: values.qemu,
    machine: values.machine,
    ramMb: Number(values.ram),
    fillMb: Number(values.fill),
    smp: Number(values.smp),
  });
  await guest.waitReady();
  guest.console.close();
  console.log(`QEMU's PID    ${guest.pid}
monitor       qmp:${guest.qmpSocket}
console       ${guest.consoleSocket} (log: ${guest.consoleLog})
memcached     127.0.0.1:${guest.ports.memcached}
httpd         http://127.0.0.1:${guest.ports.http}/blob.bin
Ctrl-C ends it.`);
  await waitUntilGone(guest.pid, Infinity);
}

await main();
