/** `vmckpt list` */
import type { Command } from 'commander';
import { externalDisks, holdsMemoryOnly } from '../checkpoint/manifest.js';
import { onFirstReplica } from '../page-server/replicas.js';
import { Store, type GenerationSummary } from '../store/store.js';
import { formatBytes } from '../util/units.js';
import { formatTime, table } from './text.js';
import { contextOf, verb, type VerbContext } from './verb.js';

export function listCommand(): Command {
  return verb('list', 'List what is stored, the newest generation of each name first.', [
    'failed',
    'usage',
    'notFound',
    'notPermitted',
  ]).action(async (_flags: object, command: Command) => {
    const context = contextOf(command);
    const { output, place } = context;
    const checkpoints = (await generationsOf(context)).sort(
      (a, b) => a.name.localeCompare(b.name) || b.generation - a.generation,
    );
    if (checkpoints.length === 0 && !output.json) output.message(`No checkpoints in ${place}.`);
    output.result({ checkpoints: checkpoints.map(documentOf) }, describe(checkpoints));
  });
}

/** Of a store elsewhere it is not known here what is sealed, and what lies beside the generations. */
async function generationsOf(context: VerbContext): Promise<GenerationSummary[]> {
  const { replicas } = context;
  if (replicas === undefined) return (await Store.open(context.storeDir, { trustForeign: true })).list();
  const found = await onFirstReplica(replicas, (store) => store.list());
  return found.map((generation) => ({ ...generation, seal: undefined, rawMemory: null }));
}

function documentOf({ name, generation, facts, problem, seal, rawMemory }: GenerationSummary) {
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
    ownBytes: facts?.sizes.ownBytes ?? null,
    sharedBytes: facts?.sizes.sharedBytes ?? null,
    externalDisks: facts === undefined ? [] : externalDisks(facts),
    rawMemoryBytes: rawMemory?.storedBytes ?? null,
    restoreProblems: facts?.restoreProblems ?? [],
    lost: facts?.lost ?? [],
    seal: seal ?? null,
    problem: problem ?? null,
  };
}

function describe(checkpoints: readonly GenerationSummary[]): string {
  if (checkpoints.length === 0) return '';
  const rows = checkpoints.map(({ name, generation, facts, problem, seal, rawMemory }) => [
    name,
    String(generation),
    facts === undefined ? '-' : formatTime(facts.created),
    facts === undefined ? '-' : formatBytes(facts.sizes.ramBytes),
    facts === undefined ? '-' : formatBytes(facts.sizes.ownBytes),
    facts === undefined ? '-' : formatBytes(facts.sizes.sharedBytes),
    rawMemory === null
      ? '-'
      : rawMemory.storedBytes === null
        ? 'changed'
        : formatBytes(rawMemory.storedBytes),
    facts === undefined ? (problem?.code ?? '-') : stateOf(facts, seal),
  ]);
  return table(['NAME', 'GEN', 'CREATED', 'RAM', 'OWN', 'SHARED', 'RAW', 'STATE'], rows);
}

function stateOf(facts: NonNullable<GenerationSummary['facts']>, seal: GenerationSummary['seal']): string {
  // Bare memory has no command line.
  if (holdsMemoryOnly(facts)) return 'memory';
  return [
    facts.vmState ?? facts.runState,
    ...(externalDisks(facts).length === 0 ? [] : ['disks external']),
    ...(seal === 'own' || seal === undefined ? [] : ['not sealed by this user']),
    ...(facts.restoreProblems === undefined ? [] : ['needs a command line of its own']),
  ].join(', ');
}
