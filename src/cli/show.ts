/** `vmckpt show NAME[@GEN]` */
import { lstatSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Command } from 'commander';
import { FILE_MODE } from '../checkpoint/files.js';
import { HOT_PACK_FILE } from '../checkpoint/format.js';
import { Hints } from '../checkpoint/hints.js';
import { decodeManifest, externalDisks, holdsMemoryOnly, type Manifest } from '../checkpoint/manifest.js';
import { summarizeRawMemory, type RawMemorySummary } from '../checkpoint/raw-memory.js';
import type { RemoteStore } from '../page-server/contracts.js';
import { onFirstReplica } from '../page-server/replicas.js';
import { changedDisks } from '../restore/untouched-disks.js';
import { judgeSealIn, type SealVerdict } from '../store/seal.js';
import { Store } from '../store/store.js';
import { shellQuote } from '../util/shell.js';
import { formatBytes } from '../util/units.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { WORKING_SET_FILE, readWorkingSet } from '../working-set/file.js';
import type { RestoreScore } from '../working-set/score.js';
import { formatTime, printable, table } from './text.js';
import { contextOf, referenceArgument, verb } from './verb.js';

export function showCommand(): Command {
  return verb('show', 'Show what a checkpoint contains, by default its newest generation.', [
    'failed',
    'usage',
    'notFound',
    'locked',
    'notPermitted',
    'damaged',
    'incompatible',
  ])
    .addArgument(referenceArgument('<reference>', 'NAME or NAME@GENERATION'))
    .action(async (reference: string, _flags: object, command: Command) => {
      const context = contextOf(command);
      const { replicas } = context;
      const shown =
        replicas === undefined
          ? await lookHere(context.storeDir, reference)
          : await onFirstReplica(replicas, (store) => lookThere(store, reference));
      // Only QEMU needs it, and it is long.
      context.output.result({ ...shown, migration: undefined }, describe(shown));
    });
}

async function lookHere(storeDir: string, reference: string): Promise<Shown> {
  const store = await Store.open(storeDir, { trustForeign: true });
  const generation = await store.locate(reference);
  const { dir, manifest, hints } = generation;
  return {
    directory: dir,
    ...manifest,
    seal: generation.judgeSeal(),
    workingSet: describeWorkingSet(hints, manifest),
    rawMemory: summarizeRawMemory(dir, manifest),
    changedDisks: changedDisks(generation),
  };
}

/** Whether its disks are as they were is not known here. */
async function lookThere(store: RemoteStore, reference: string): Promise<Shown> {
  const opened = await store.open(reference);
  const { name, number: generation } = opened;
  const encoded = Buffer.from(opened.manifest);
  const manifest = { ...decodeManifest(encoded, `${name}/${generation}`), name, generation };
  const copies = mkdtempSync(path.join(tmpdir(), 'vmckpt-show-'));
  try {
    for (const file of ['seal', WORKING_SET_FILE] as const) {
      const bytes = await opened.readFile(file);
      if (bytes !== undefined) writeFileSync(path.join(copies, file), bytes, { mode: FILE_MODE });
    }
    const workingSet = describeWorkingSet(Hints.beside(copies), manifest);
    return {
      directory: store.label,
      ...manifest,
      seal: judgeSealIn(copies, { manifest, encoded }),
      workingSet: { ...workingSet, hotPackBytes: opened.files.get(HOT_PACK_FILE) ?? 0 },
      rawMemory: null,
      changedDisks: [],
    };
  } finally {
    rmSync(copies, { recursive: true });
  }
}

type Shown = Omit<Manifest, 'migration'> & {
  /** Or the address of its store. */
  readonly directory: string;
  readonly seal: SealVerdict;
  readonly workingSet: WorkingSetSummary;
  readonly rawMemory: RawMemorySummary | null;
  readonly changedDisks: readonly string[];
};

interface WorkingSetSummary {
  /** Units that are predicted: the pages that one fault installs (docs/working-set.md). */
  readonly unitCount: number;
  /** Size of the file with copies of their extents; 0 when there is none. */
  readonly hotPackBytes: number;
  /** Number of restores that taught it. */
  readonly restoreCount: number;
  /** The latest restores, oldest first. */
  readonly restores: readonly RestoreScore[];
  readonly problem: string | null;
}

function describeWorkingSet(hints: Hints, { sizes, ram }: Manifest): WorkingSetSummary {
  const { workingSet, problem } = readWorkingSet(hints, sizes.ramBytes / ram.pageBytes);
  const { histogram, restoreCount, scores } = workingSet;
  const hotPackBytes = lstatSync(hints.find(HOT_PACK_FILE), { throwIfNoEntry: false })?.size ?? 0;
  const unitCount = histogram.memberCount;
  return { unitCount, hotPackBytes, restoreCount, restores: scores, problem: problem ?? null };
}

function describeExtents({ extentCount, extentPages, level }: Shown['pages']): string {
  const codec = level === 'none' ? 'not compressed' : `zstd level ${level}`;
  return `${extentCount} of up to ${extentPages} pages, ${codec}`;
}

function describeStored({ nonZeroBytes, storedBytes, ownBytes, sharedBytes }: Shown['sizes']): string {
  const ratio = nonZeroBytes === 0 ? '' : `, ${share(storedBytes, nonZeroBytes)} of the data`;
  const parts =
    sharedBytes === 0
      ? ''
      : `: ${formatBytes(ownBytes)} of its own, ${formatBytes(sharedBytes)} shared with earlier generations`;
  return `${formatBytes(storedBytes)}${ratio}${parts}`;
}

function describe(shown: Shown): string {
  const { name, generation, machine, qemu, pages, sizes } = shown;
  const cpu = machine.cpuModel === undefined ? '' : `, CPU ${machine.cpuModel}`;
  const accelerator = machine.accelerator === undefined ? '' : `, ${machine.accelerator}`;
  const facts: [string, string][] = [
    ['Checkpoint', `${name}@${generation}`],
    ['Identity', shown.id],
    ['Created', `${formatTime(shown.created)} by vmckpt ${shown.vmckptVersion}`],
    ...(holdsMemoryOnly(shown)
      ? [['Saved', `${shown.mode} of bare memory`] satisfies [string, string]]
      : ([
          ['Saved', `${shown.mode}, while ${shown.vmState ?? shown.runState}`],
          ['Machine', `${machine.type}${cpu}${accelerator}`],
          ['QEMU', `${qemu.version}, ${qemu.binaryName}`],
        ] satisfies [string, string][])),
    ['Seal', shown.seal.status === 'own' ? 'saved by this user' : shown.seal.reason],
    ...diskRows(shown),
    ...problemRows(shown),
    ['RAM', `${formatBytes(sizes.ramBytes)}, ${formatBytes(sizes.nonZeroBytes)} of it data`],
    ['Stored', describeStored(sizes)],
    [
      'Pages',
      `${pages.dataPageCount} data, ${pages.fillPageCount} repeated byte, ${pages.zeroPageCount} zero, ${pages.absentPageCount} absent`,
    ],
    ['Extents', describeExtents(pages)],
    ['Device state', formatBytes(sizes.deviceStateBytes)],
    ['Raw memory', describeRaw(shown.rawMemory)],
    ['Working set', describeSet(shown.workingSet)],
    ['Directory', shown.directory],
    ...processRows(shown),
  ];
  const width = Math.max(...facts.map(([label]) => label.length));
  return [
    ...facts.map(([label, value]) => `${label.padEnd(width)}  ${printable(value)}`),
    ...section(
      ['RAM BLOCK', 'SIZE'],
      shown.ram.blocks.map((block) => [block.name, formatBytes(block.usedBytes)]),
    ),
    ...section(
      ['DEVICE', 'TYPE'],
      shown.devices.map(({ qomPath, type }) => [qomPath, type]),
    ),
    ...section(['DISK', 'FORMAT', 'SIZE', 'ACCESS', 'FILE'], shown.blockDevices.map(diskRow)),
    ...section(
      ['MEMORY BACKEND', 'SIZE', 'SHARED'],
      shown.memoryBackends.map(({ id, sizeBytes, share: shared }) => [
        id,
        formatBytes(sizeBytes),
        shared ? 'yes' : 'no',
      ]),
    ),
    ...section(
      [
        'RESTORED',
        'PREFETCHED',
        'PRECISION',
        'RECALL',
        'WASTED',
        'LATE',
        'MISSED',
        'WITHHELD',
        'OF THESE MISSED',
      ],
      shown.workingSet.restores.map(scoreRow),
    ),
    ...(shown.commandLine.length === 0
      ? []
      : ['', 'Command line:', printable(shown.commandLine.map(shellQuote).join(' '))]),
  ].join('\n');
}

function problemRows({ restoreProblems = [], lost = [] }: Shown): [string, string][] {
  const refused = restoreProblems.map(({ message }) => message);
  return [...listed('Refused as it is', refused), ...listed('Not restored', lost)];
}

function listed(label: string, texts: readonly string[]): [string, string][] {
  return texts.map((text, index) => [index === 0 ? label : '', text]);
}

function processRows({ workingDirectory, process: context }: Shown): [string, string][] {
  const rows: [string, string][] = workingDirectory === undefined ? [] : [['Ran in', workingDirectory]];
  if (context === undefined) return rows;
  const { uid, gid, elsewhere, cgroup } = context;
  const places =
    elsewhere.length === 0 ? '' : `, in another ${elsewhere.join(' and another ')} than the saver`;
  const group = cgroup === undefined ? '' : `, control group ${cgroup}`;
  return [...rows, ['Ran as', `user ${uid}, group ${gid}${places}${group}`]];
}

function describeRaw(raw: RawMemorySummary | null): string {
  if (raw === null) return 'none';
  return (
    raw.problem ??
    `${formatBytes(raw.sizeBytes ?? 0)}, ${formatBytes(raw.storedBytes ?? 0)} of it on the disk`
  );
}

function describeSet({ unitCount, restoreCount, hotPackBytes, problem }: WorkingSetSummary): string {
  if (problem !== null) return problem;
  const packed = hotPackBytes === 0 ? '' : `; ${formatBytes(hotPackBytes)} to read in one sweep`;
  if (restoreCount === 0)
    return unitCount === 0 ? 'not known yet: every restore teaches it' : `${unitCount} units, from the save`;
  return `${unitCount} units, from ${restoreCount} restore${restoreCount === 1 ? '' : 's'}${packed}`;
}

/** A dash stands for unknown. Late, missed and withheld count units. */
function scoreRow(score: RestoreScore): string[] {
  const percent = (value: number | undefined) => (value === undefined ? '-' : `${Math.round(value * 100)} %`);
  return [
    formatTime(new Date(score.resumedAtMs).toISOString()),
    formatBytes(score.prefetchedPages * PAGE_BYTES),
    percent(score.precision),
    percent(score.recall),
    score.wastedBytes === undefined ? '-' : formatBytes(score.wastedBytes),
    ...[score.lateFaults, score.missFaults, score.withheldUnits, score.withheldFaults].map(String),
  ];
}

function diskRows(shown: Shown): [string, string][] {
  const external = externalDisks(shown);
  if (external.length === 0) return [];
  return [
    ['Disks', `external, not in the checkpoint: ${external.join(', ')}`],
    ...listed('Not as saved', shown.changedDisks),
  ];
}

function diskRow({ node, file, format, readOnly, sizeBytes }: Manifest['blockDevices'][number]): string[] {
  const size = sizeBytes === undefined ? '-' : formatBytes(sizeBytes);
  return [node, format, size, readOnly ? 'read-only' : 'writable', file ?? '-'];
}

/** A table after a blank line; nothing when it would be empty. */
function section(header: readonly string[], rows: readonly (readonly string[])[]): string[] {
  if (rows.length === 0) return [];
  return [
    '',
    table(
      header,
      rows.map((row) => row.map(printable)),
    ),
  ];
}

function share(part: number, whole: number): string {
  return `${Math.round((part / whole) * 100)} %`;
}
