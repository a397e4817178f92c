/** The demonstration of demonstration.ts, as a table for people or as one JSON document. */
import { parseArgs } from 'node:util';
import { defaultFillMb } from '../src/bench/guest.js';
import { formatBytes, formatMs } from '../src/util/units.js';
import { demonstrate, type DemoOptions, type DemoReport, runScript } from './demonstration.js';
import { openWorkplace } from './workplace.js';

const USAGE = `usage: scripts/demo.sh [--json] [--ram-mb N] [--fill-mb N] [--qemu system|10|11|PATH] [--accel tcg|kvm] [--rounds N]
  --json      one JSON document on stdout instead of a table
  --ram-mb    RAM of the guest (1024)
  --fill-mb   data that the guest fills it with (700 for 1024)
  --qemu      the distribution's QEMU, version 10 or 11 unpacked beside it, or a binary
  --accel     software emulation, or the host's hardware (tcg)
  --rounds    restores of each kind; the median run is shown (1)`;

interface Options extends DemoOptions {
  readonly json: boolean;
}

async function main(): Promise<void> {
  const options = parseOptions();
  if (options === undefined) return console.log(USAGE);
  const workplace = openWorkplace();
  const report = await demonstrate(options, workplace);
  console.log(options.json ? JSON.stringify(report) : describe(report, options));
  process.exit(report.restores.every(({ guestVerified }) => guestVerified) ? 0 : 1);
}

function describe({ qemu, guest, save, baseline, restores }: DemoReport, { accel, rounds }: Options): string {
  const row = (...[what, ...figures]: readonly string[]) =>
    `  ${what!.padEnd(28)}${figures.map((figure) => figure.padStart(18)).join('')}`;
  const ms = (value: number | null) => (value === null ? '-' : formatMs(value));
  const lazy = restores.find(({ mode }) => mode === 'lazy')!;
  const whole = restores.every(({ guestVerified }) => guestVerified);
  const stock = baseline.fullRestoreResumeMs;
  return [
    '',
    `QEMU ${qemu}, ${accel}; ${formatBytes(guest.ramBytes)} of RAM, ${formatBytes(guest.dataBytes)} of it known data`,
    '',
    `  saved live: ${formatBytes(save.nonZeroBytes)} in ${formatBytes(save.storedBytes)}, paused for ${formatMs(save.pauseMs)}, done after ${formatMs(save.totalMs)}`,
    '',
    row('', 'VM runs again', 'first heartbeat', 'memory complete', 'guest'),
    row("stock QEMU's full restore", ms(stock), ms(baseline.firstHeartbeatMs), ms(stock), '-'),
    ...restores.map(({ mode, resumeMs, firstHeartbeatMs, completeMs, guestVerified }) =>
      row(
        `vmckpt restore --mode ${mode}`,
        ms(resumeMs),
        ms(firstHeartbeatMs),
        ms(completeMs),
        guestVerified ? 'whole' : 'DAMAGED',
      ),
    ),
    '',
    `  Times from QEMU's start, ${rounds === 1 ? 'one run' : `median of ${rounds} runs`}; checkpoints in the page cache, host memory touched before.`,
    '',
    whole
      ? `Lazily restored, the VM ran after ${ms(lazy.resumeMs)}, by a full restore after ${ms(stock)} (${(stock / lazy.resumeMs!).toFixed(1)} times that); it found every byte in its place.`
      : 'The guest did NOT come back whole: see above.',
  ].join('\n');
}

function parseOptions(): Options | undefined {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      'ram-mb': { type: 'string', default: '1024' },
      'fill-mb': { type: 'string' },
      qemu: { type: 'string', default: 'system' },
      accel: { type: 'string', default: 'tcg' },
      rounds: { type: 'string', default: '1' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const ramMb = positive('--ram-mb', values['ram-mb']);
  const fillMb = positive('--fill-mb', values['fill-mb'] ?? `${defaultFillMb(ramMb)}`);
  const { json, qemu, accel } = values;
  if (accel !== 'tcg' && accel !== 'kvm') throw new Error(`--accel ${accel}: tcg or kvm expected`);
  return { json, qemu, accel, ramMb, fillMb, rounds: positive('--rounds', values.rounds) };
}

function positive(name: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`${name} ${text}: a whole number above 0 expected`);
}

await runScript(main);
