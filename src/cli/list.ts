/** `vmckpt list` */
import type { Command } from 'commander';
import { holdsMemoryOnly } from '../checkpoint/manifest.js';
import { Store, type GenerationSummary } from '../store/store.js';
import { formatBytes } from '../util/units.js';
import { formatTime, table } from './text.js';
import { contextOf, verb } from './verb.js';

export function listCommand(): Command {
  return verb('list', 'List what is stored, the newest generation of each name first.', [
    'failed',
    'usage',
    'notFound',
    'notPermitted',
  ]).action(async (_flags: object, command: Command) => {
    const { output, storeDir } = contextOf(command);
    const store = await Store.open(storeDir, { trustForeign: true });
    const checkpoints = (await store.list()).sort(
      (a, b) => a.name.localeCompare(b.name) || b.generation - a.generation,
    );
    if (checkpoints.length === 0) output.message(`No checkpoints in ${storeDir}.`);
    output.result({ checkpoints: checkpoints.map(documentOf) }, describe(checkpoints));
  });
}

function documentOf({ name, generation, facts, problem, rawMemory }: GenerationSummary) {
  return {
    name,
    generation,
    created: facts?.created ?? null,
    mode: facts?.mode ?? null,
    runState: facts?.runState ?? null,
    vmState: facts?.vmState ?? null,
    ramBytes: facts?.sizes.ramBytes ?? null,
    nonZeroBytes: facts?.sizes.nonZeroBytes ?? null,
    storedBytes: facts?.sizes.storedBytes ?? null,
    rawMemoryBytes: rawMemory?.storedBytes ?? null,
    restoreProblems: facts?.restoreProblems ?? [],
    lost: facts?.lost ?? [],
    problem: problem ?? null,
  };
}

function describe(checkpoints: readonly GenerationSummary[]): string {
  if (checkpoints.length === 0) return '';
  const rows = checkpoints.map(({ name, generation, facts, problem, rawMemory }) => [
    name,
    String(generation),
    facts === undefined ? '-' : formatTime(facts.created),
    facts === undefined ? '-' : formatBytes(facts.sizes.ramBytes),
    facts === undefined ? '-' : formatBytes(facts.sizes.storedBytes),
    rawMemory === null
      ? '-'
      : rawMemory.storedBytes === null
        ? 'changed'
        : formatBytes(rawMemory.storedBytes),
    facts === undefined ? (problem?.code ?? '-') : stateOf(facts),
  ]);
  return table(['NAME', 'GEN', 'CREATED', 'RAM', 'STORED', 'RAW', 'STATE'], rows);
}

function stateOf(facts: NonNullable<GenerationSummary['facts']>): string {
  const state = holdsMemoryOnly(facts) ? 'memory' : (facts.vmState ?? facts.runState);
  return facts.restoreProblems === undefined ? state : `${state}, needs a command line of its own`;
}
