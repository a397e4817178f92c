/** `vmckpt check [NAME[@GEN]]` */
import type { Command } from 'commander';
import {
  VerifiedFiles,
  checkCheckpoint,
  type CheckOptions,
  type CheckProblem,
  type CheckReport,
} from '../checkpoint/check.js';
import { EXIT_CODES, VmckptError } from '../errors.js';
import { parseReference } from '../store/reference.js';
import { Store } from '../store/store.js';
import { checkRawMemory } from '../transfer/raw-memory.js';
import { formatBytes } from '../util/units.js';
import type { Output } from './output.js';
import { printable } from './text.js';
import { contextOf, interruptible, referenceArgument, verb } from './verb.js';

export function checkCommand(): Command {
  return verb('check', 'Verify every checksum and the structure of generations.', [
    'failed',
    'usage',
    'notFound',
    'locked',
    'notPermitted',
    'damaged',
    'interrupted',
  ])
    .addArgument(
      referenceArgument(
        '[reference]',
        'NAME (all of its generations) or NAME@GENERATION; the whole store by default',
      ),
    )
    .action(async (reference: string | undefined, _flags: object, command: Command) => {
      const { output, storeDir } = contextOf(command);
      const store = await Store.open(storeDir, { trustForeign: true });
      const { signal } = interruptible(output, 'Interrupted.');
      const checks = [];
      const verified = new VerifiedFiles();
      for (const wanted of await referencesIn(store, reference)) {
        output.detail(`Checking ${wanted}.`);
        checks.push(await checkOne(store, wanted, { output, signal, verified }).catch(finding(wanted)));
      }
      if (checks.length === 0) output.message(`No checkpoints in ${storeDir}.`);
      output.result({ checks }, checks.map(describe).join('\n'));
      if (checks.some(({ problemCount }) => problemCount > 0)) process.exitCode = EXIT_CODES.damaged;
    });
}

interface Work {
  readonly output: Output;
  readonly signal: AbortSignal;
  readonly verified: VerifiedFiles;
}

type Check = CheckReport & { readonly name: string; readonly generation: number };

async function referencesIn(store: Store, reference: string | undefined): Promise<string[]> {
  if (reference === undefined)
    return (await store.list()).map(({ name, generation }) => `${name}@${generation}`);
  const { name, generation } = parseReference(reference);
  const generations = generation === undefined ? await store.generations(name) : [generation];
  // Without one, it is found out why.
  return generations.length === 0 ? [reference] : generations.map((number) => `${name}@${number}`);
}

async function checkOne(store: Store, reference: string, { output, signal, verified }: Work): Promise<Check> {
  const found = await store.locate(reference);
  const { name, number: generation, dir } = found;
  const use = found.hold();
  try {
    const onProgress = (done: number, total: number) => output.progress(done, total);
    const report = await checkCheckpoint(dir, { onProgress, signal, verified });
    const problem = report.problemCount > 0 ? undefined : await rawMemoryProblem(dir, { onProgress, signal });
    if (problem === undefined) return { name, generation, ...report };
    return { name, generation, ...report, problems: [problem], problemCount: 1 };
  } finally {
    use.release();
  }
}

/** When many are checked, one that cannot be opened is a finding like any other. */
function finding(reference: string): (error: unknown) => Check {
  return (error) => {
    if (!(error instanceof VmckptError) || error.kind !== 'damaged') throw error;
    const { name, generation = 0 } = parseReference(reference);
    const problems = [{ code: error.code, message: error.message }];
    return { name, generation, pageCount: 0, extentCount: 0, storedBytes: 0, problems, problemCount: 1 };
  };
}

/** Compares the raw memory file with an intact generation; a difference is reported like any damage. */
async function rawMemoryProblem(dir: string, options: CheckOptions): Promise<CheckProblem | undefined> {
  try {
    await checkRawMemory(dir, options);
    return undefined;
  } catch (error) {
    if (!(error instanceof VmckptError) || error.kind !== 'damaged') throw error;
    return { code: error.code, message: error.message };
  }
}

function describe({
  name,
  generation,
  pageCount,
  extentCount,
  storedBytes,
  problems,
  problemCount,
}: Check): string {
  if (problemCount === 0)
    return `${name}@${generation}: sound (${pageCount} pages, ${extentCount} extents, ${formatBytes(storedBytes)})`;
  const rest = problemCount - problems.length;
  return [
    `${name}@${generation}: ${problemCount} ${problemCount === 1 ? 'problem' : 'problems'}`,
    ...problems.map(({ code, message }) => `  ${code}: ${printable(message)}`),
    ...(rest > 0 ? [`  and ${rest} more`] : []),
  ].join('\n');
}
