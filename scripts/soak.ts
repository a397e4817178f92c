/** The soaks: a line for each run, and a summary as a table for docs/soak.md. */
import { parseArgs } from 'node:util';
import { soakGenerations, type Sample } from './soaking-generations.js';
import { soakSaves } from './soaking-saves.js';
import { soak, type SoakOptions, type SoakRun } from './soaking.js';
import { openWorkplace } from './workplace.js';

const USAGE = `usage: scripts/soak.sh [--campaign restores|saves|generations] [--runs N] [--accel tcg|kvm] [--seed S]
                       [--qemu system|10|11|PATH]
  --campaign restores     kills of restores, and of some saves (the default)
             saves        kills of saves of a chain of generations, all of which are restored
             generations  nothing is killed: RUNS saves of one guest, of which five are kept
  --runs    kills, or saves (100)
  --accel   software emulation, or the host's hardware. Restores: there with the guest of fixtures/bare (tcg)
  --seed    repeats a soak (of the time of day)
  --qemu    the distribution's QEMU, version 10 or 11 unpacked beside it, or a binary`;

/** Of the samples, so many are printed. */
const PRINTED_SAMPLES = 20;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      campaign: { type: 'string', default: 'restores' },
      runs: { type: 'string', default: '100' },
      accel: { type: 'string', default: 'tcg' },
      seed: { type: 'string', default: `${Date.now() % 1_000_000}` },
      qemu: { type: 'string', default: 'system' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return console.log(USAGE);
  const { accel, campaign, qemu } = values;
  if (accel !== 'tcg' && accel !== 'kvm') throw new Error(`--accel ${accel}: tcg or kvm expected`);
  const [runs, seed] = [Number(values.runs), Number(values.seed)];
  const common = { runs, seed, qemu, accel, workplace: openWorkplace() } as const;
  if (campaign === 'restores') await killing(soak, common);
  else if (campaign === 'saves') await killing(soakSaves, common);
  else if (campaign === 'generations') await chaining(common);
  else throw new Error(`--campaign ${campaign}: restores, saves or generations expected`);
  process.exit(0);
}

type Common = Required<Omit<SoakOptions, 'onRun'>>;

async function killing(
  campaign: (options: Required<SoakOptions>) => Promise<void>,
  options: Common,
): Promise<void> {
  const { runs, seed } = options;
  console.log(`seed ${seed}`);
  const done: SoakRun[] = [];
  const onRun = (run: SoakRun): void => {
    done.push(run);
    const { number, fault, afterMs, ending, tookMs } = run;
    console.log(`${number}/${runs}  ${fault} after ${afterMs} ms: ${ending}, whole after ${tookMs} ms`);
  };
  try {
    await campaign({ ...options, onRun });
  } finally {
    console.log(summarize(done, runs));
  }
}

async function chaining({ runs, ...options }: Common): Promise<void> {
  const every = Math.max(1, Math.floor(runs / PRINTED_SAMPLES));
  console.log(
    row(['generation', 'store (kB)', 'packs', 'descriptors', 'runtime files', 'QEMU (MB)', 'save (ms)']),
  );
  const onSample = (sample: Sample): void => {
    const { generation, storeBytes, packCount, descriptors, runtimeFiles, qemuBytes, saveMs } = sample;
    if (generation % every !== 0 && generation !== 1) return;
    const figures = [Math.round(storeBytes / 1e3), packCount, descriptors, runtimeFiles];
    console.log(row([generation, ...figures, Math.round(qemuBytes / 1e6), Math.round(saveMs)]));
  };
  await soakGenerations({ ...options, count: runs, onSample });
  console.log(`${runs} generations: all of it levels off, and the oldest and the newest one are whole.`);
}

/** How often each fault ended in each way. */
function summarize(done: readonly SoakRun[], runs: number): string {
  const endings = [...new Set(done.map(({ ending }) => ending))].sort();
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

function row(cells: readonly (string | number)[]): string {
  return `| ${cells.join(' | ')} |`;
}

await main();
