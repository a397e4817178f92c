#!/usr/bin/env node
/** The command `vmckpt`: parses, runs one verb, and turns any failure into one message and an exit code. */
import { CommanderError } from 'commander';
import { VmckptError } from '../errors.js';
import { Output, type OutputOptions } from './output.js';
import { buildProgram, type MakeVerb } from './program.js';
import { debug, elidedCommand } from '../util/debug.js';
import { asOwner } from '../util/rights.js';
import { usageError } from './usage-errors.js';

const program = buildProgram(await verbsFor(verbIn(process.argv.slice(2))));

// A verb may wait for something that does not keep Node alive, such as the end of a detached QEMU.
setInterval(() => undefined, 1 << 30);

let failedWith: number | undefined;

// A reader such as head(1) may close the pipe; a full disk is a failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) =>
  process.exit(error.code === 'EPIPE' ? 0 : report(notWritten(error))),
);
// Messages that cannot be written do not stop the work.
process.stderr.on('error', () => undefined);

debug('verb', () => elidedCommand(process.argv));
try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = report(error);
}
await stdoutWritten();
debug('verb', () => `ends with exit code ${process.exitCode ?? 0}`);
// Sockets and workers of an interrupted verb must not keep the process alive.
process.exit();

/**
 * `restore` and `save` load without the other verbs, which are 40 % of the code: a VM that is down waits for the one, and
 * the other may be called every second.
 */
async function verbsFor(verb: string | undefined): Promise<readonly MakeVerb[]> {
  if (verb === 'restore') return [(await import('./restore.js')).restoreCommand];
  if (verb === 'save') return [(await import('./save.js')).saveCommand];
  return (await import('./verbs.js')).VERBS;
}

/** Behind global options. */
function verbIn(args: readonly string[]): string | undefined {
  const [first, ...rest] = args;
  if (first === '--store') return verbIn(rest.slice(1));
  return first?.startsWith('-') ? verbIn(rest) : first;
}

/** Node writes to files, pipes and terminals at once, but reports errors a moment later. */
function stdoutWritten(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function notWritten({ message, code }: NodeJS.ErrnoException): VmckptError {
  return new VmckptError(
    code === 'ENOSPC' ? 'NO_SPACE' : 'FAILED',
    `stdout cannot be written to: ${message}`,
  );
}

/** The first failure is the cause of later ones. */
function report(error: unknown): number {
  if (failedWith !== undefined) return failedWith;
  // Help and version have been printed.
  if (error instanceof CommanderError && error.exitCode === 0) return 0;
  const known = error instanceof CommanderError ? usageError(error, program) : fromSystemError(error);
  const output = new Output(outputOptions());
  if (process.argv.length <= 2) program.outputHelp({ error: true });
  output.failure(named(known));
  return (failedWith = known.exitCode);
}

/** In hints, replaces NAME by the checkpoint's name if the verb was given one. */
function named(error: VmckptError): VmckptError {
  const { code, message, hint, cause } = error;
  const given = program.commands.flatMap(({ registeredArguments, processedArgs }) =>
    registeredArguments.flatMap((argument, index) =>
      ['name', 'reference'].includes(argument.name()) ? [processedArgs[index] as unknown] : [],
    ),
  );
  const name = given.find((value) => typeof value === 'string');
  if (name === undefined || hint === undefined) return error;
  const filled = hint.replaceAll('vmckpt restore NAME', `vmckpt restore ${name}`);
  return new VmckptError(code, message, { hint: filled, cause });
}

/** Parses these options again, because commander may have failed before it reached --json. */
function outputOptions(): OutputOptions {
  const before = process.argv.indexOf('--');
  const given = before < 0 ? process.argv : process.argv.slice(0, before);
  return { ...program.opts<OutputOptions>(), ...(given.includes('--json') && { json: true }) };
}

/** System errors that the user can fix. Anything else is a bug in vmckpt, and shows its stack. */
function fromSystemError(error: unknown): VmckptError {
  if (error instanceof VmckptError) return error;
  const { code, message, stack, syscall } = error as NodeJS.ErrnoException;
  if (syscall === 'uv_cwd')
    return new VmckptError('HOST_FILE_MISSING', 'the current folder does not exist any more', {
      hint: 'Change to another folder (cd), and try again.',
      cause: error,
    });
  if (code === 'EACCES' || code === 'EPERM')
    return new VmckptError('NOT_PERMITTED', message, {
      hint: asOwner('the user who owns these files'),
      cause: error,
    });
  if (code === 'ENOSPC')
    return new VmckptError('NO_SPACE', message, {
      hint: 'Free some space, or choose another --store.',
      cause: error,
    });
  if (code === 'EROFS')
    return new VmckptError('STORE_NOT_WRITABLE', message, {
      hint: 'Choose a --store on a file system that can be written to.',
      cause: error,
    });
  if (code !== undefined) return new VmckptError('FAILED', message, { cause: error });
  return new VmckptError('FAILED', stack ?? String(error), {
    hint: 'This is a bug in vmckpt: please report it with these lines.',
    cause: error,
  });
}
