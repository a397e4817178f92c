/** The soak of soaking.ts: a line for each run, and a summary as a table for docs/soak.md. */
import { parseArgs } from 'node:util';
import { soak, type SoakRun } from './soaking.js';
import { openWorkplace } from './workplace.js';

const USAGE = `usage: scripts/soak.sh [--runs N] [--accel tcg|kvm] [--seed S] [--qemu system|10|11|PATH]
  --runs    kills (100)
  --accel   software emulation, or the host's hardware, there with the guest of fixtures/bare (tcg)
  --seed    repeats a soak (of the time of day)
  --qemu    the distribution's QEMU, version 10 or 11 unpacked beside it, or a binary`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '100' },
      accel: { type: 'string', default: 'tcg' },
      seed: { type: 'string', default: `${Date.now() % 1_000_000}` },
      qemu: { type: 'string', default: 'system' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return console.log(USAGE);
  const { accel, qemu } = values;
  if (accel !== 'tcg' && accel !== 'kvm') throw new Error(`--accel ${accel}: tcg or kvm expected`);
  const [runs, seed] = [Number(values.runs), Number(values.seed)];
  console.log(`seed ${seed}`);
  const done: SoakRun[] = [];
  const onRun = (run: SoakRun): void => {
    done.push(run);
    const { number, fault, afterMs, ending, tookMs } = run;
    console.log(`${number}/${runs}  ${fault} after ${afterMs} ms: ${ending}, whole after ${tookMs} ms`);
  };
  try {
    await soak({ runs, seed, qemu, accel, workplace: openWorkplace(), onRun });
  } finally {
    console.log(summarize(done, runs));
  }
  process.exit(0);
}

/** How often each fault ended in each way. */
function summarize(done: readonly SoakRun[], runs: number): string {
  const endings = [...new Set(done.map(({ ending }) => ending))].sort();
  const row = (cells: readonly (string | number)[]) => `| ${cells.join(' | ')} |`;
  const rows = [...new Set(done.map(({ fault }) => fault))].sort().map((fault) => {
    const same = done.filter((run) => run.fault === fault);
    return row([fault, ...endings.map((ending) => same.filter((run) => run.ending === ending).length)]);
  });
  return [
    '',
    `${done.length} of ${runs} runs ended with a verified guest.`,
    '',
    row(['killed', ...endings]),
    row(['---', ...endings.map(() => '---:')]),
    ...rows,
  ].join('\n');
}

await main();
