/** `vmckpt check [NAME[@GEN]]` */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Command } from 'commander';
import {
  VerifiedFiles,
  checkCheckpoint,
  type CheckOptions,
  type CheckProblem,
  type CheckReport,
} from '../checkpoint/check.js';
import { EXIT_CODES, VmckptError } from '../errors.js';
import type { RemoteStore } from '../page-server/contracts.js';
import { copyHere } from '../page-server/copy-here.js';
import { onFirstReplica } from '../page-server/replicas.js';
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
      const context = contextOf(command);
      const { output, replicas, place } = context;
      const { signal } = interruptible(output, 'Interrupted.');
      const work = { output, signal, verified: new VerifiedFiles() };
      const checks =
        replicas === undefined
          ? await checkHere(context.storeDir, reference, work)
          : await onFirstReplica(replicas, (store) => checkThere(store, reference, work));
      if (checks.length === 0) output.message(`No checkpoints in ${place}.`);
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

async function checkHere(storeDir: string, reference: string | undefined, work: Work): Promise<Check[]> {
  const store = await Store.open(storeDir, { trustForeign: true });
  const checks: Check[] = [];
  for (const wanted of await referencesIn(store, reference)) {
    work.output.detail(`Checking ${wanted}.`);
    checks.push(await checkOne(store, wanted, work).catch(finding(wanted)));
  }
  return checks;
}

/** One generation after the other is copied to this host, and checked there. */
async function checkThere(store: RemoteStore, reference: string | undefined, work: Work): Promise<Check[]> {
  const wanted = reference === undefined ? undefined : parseReference(reference);
  const references = (await store.list())
    .filter(({ name }) => wanted === undefined || name === wanted.name)
    .filter(({ generation }) => generation === (wanted?.generation ?? generation))
    .map(({ name, generation }) => `${name}@${generation}`);
  const checks: Check[] = [];
  // Without one, it is found out why.
  for (const found of references.length === 0 && reference !== undefined ? [reference] : references) {
    work.output.detail(`Checking ${found}.`);
    checks.push(await checkCopy(store, found, work).catch(finding(found)));
  }
  return checks;
}

/** A copy that comes later may get the inode of this one: what was verified is not kept. */
async function checkCopy(store: RemoteStore, reference: string, { output, signal }: Work): Promise<Check> {
  const opened = await store.open(reference);
  const { name, number: generation } = opened;
  const copies = mkdtempSync(path.join(tmpdir(), 'vmckpt-check-'));
  const dir = path.join(copies, name, String(generation));
  const onProgress = (done: number, total: number) => output.progress(done, total);
  try {
    await copyHere(store, opened, dir, { signal, onProgress });
    return { name, generation, ...(await checkCheckpoint(dir, { onProgress, signal })) };
  } finally {
    rmSync(copies, { recursive: true });
    await opened.close();
  }
}

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
