/** What all verbs share: global options, exit codes in the help, and one way to end. */
import path from 'node:path';
import { Argument, Command, InvalidArgumentError, Option } from 'commander';
import { EXIT_CODES, VmckptError, type ErrorKind } from '../errors.js';
import { exitNow } from '../native/index.js';
import { isAddress, parseAddresses } from '../page-server/address.js';
import type { Replicas } from '../page-server/replicas.js';
import { parseReference, requireName } from '../store/reference.js';
import { homeDir } from '../util/user-folders.js';
import { Output } from './output.js';

export interface GlobalOptions {
  readonly store: string;
  readonly tlsDir: string;
  readonly insecurePlaintext?: true;
  readonly json?: true;
  readonly quiet?: true;
  readonly verbose?: true;
  /** `--no-color` sets it to false. */
  readonly color: boolean;
}

const MEANINGS: Record<ErrorKind, string> = {
  failed: 'failed',
  usage: 'wrong usage',
  partial: 'done in part',
  notFound: 'no such store, checkpoint, VM or file',
  locked: 'locked by another process',
  notPermitted: 'not permitted',
  damaged: 'damaged data',
  incompatible: 'incompatible machine, QEMU, disk or format',
  interrupted: 'interrupted',
};

/** Every exit code and what it means, in order. */
export const EXIT_MEANINGS: readonly (readonly [code: number, meaning: string])[] = [
  [0, 'done'],
  ...Object.entries(MEANINGS).map(([kind, meaning]): [number, string] => [
    EXIT_CODES[kind as ErrorKind],
    meaning,
  ]),
];

const OFF: ReadonlySet<string> = new Set(['', '0', 'false', 'no', 'off']);

/** When QEMU's arguments are mixed with restore's. */
export const QEMU_ARGS_HINT =
  'Put a QEMU command line of your own after two dashes: vmckpt restore NAME -- QEMU ARGS…';

/** An option that can also be given as `VMCKPT_…`: option > variable > default. */
export function option(flags: string, description: string): Option {
  const made = new Option(flags, description);
  const variable = `VMCKPT_${made.long!.slice(2).replaceAll('-', '_').toUpperCase()}`;
  // Commander takes any value of a flag's variable for "on".
  if (made.isBoolean() && OFF.has(process.env[variable] ?? '')) delete process.env[variable];
  return made.env(variable);
}

/** The name of a checkpoint. A bad name is refused before anything else happens. */
export function nameArgument(name: string, description: string): Argument {
  return new Argument(name, description).argParser(checkedName);
}

/** @throws VmckptError BAD_NAME */
export function checkedName(text: string): string {
  requireName(text, 'a checkpoint');
  return text;
}

/** @throws VmckptError BAD_NAME */
export function checkedVmName(text: string): string {
  requireName(text, 'a VM');
  return text;
}

/** The name of a checkpoint or of a generation. A bad name is refused before anything else happens. */
export function referenceArgument(name: string, description: string): Argument {
  return new Argument(name, description).argParser((text: string) => {
    parseReference(text);
    return text;
  });
}

/** The number that an option's argument gives. @throws InvalidArgumentError */
export function numberIn(text: string, { min, max }: { readonly min: number; readonly max: number }): number {
  const value = Number(text);
  if (text.trim() !== '' && value >= min && value <= max) return value;
  throw new InvalidArgumentError(`expected a number from ${min} to ${max}.`);
}

/** A verb whose help ends with the exit codes that it uses. */
export function verb(usage: string, description: string, kinds: readonly ErrorKind[]): Command {
  const codes: readonly number[] = [0, ...kinds.map((kind) => EXIT_CODES[kind])];
  const rows = EXIT_MEANINGS.filter(([code]) => codes.includes(code)).map(
    ([code, meaning]) => `  ${String(code).padEnd(4)}${meaning}`,
  );
  return new Command(usage)
    .description(description)
    .addHelpText('after', `\nExit codes:\n${rows.join('\n')}`);
}

/** What the global options of a running verb say. Take storeDir only where replicas are ruled out. */
export interface VerbContext {
  readonly output: Output;
  /** The folder of the store. @throws VmckptError USAGE when it is elsewhere */
  readonly storeDir: string;
  /** How page servers are connected to. */
  readonly connecting: { readonly tlsDir: string; readonly insecurePlaintext: boolean };
  /** The replicas of a store elsewhere; undefined for a folder. */
  readonly replicas: Replicas | undefined;
  /** Where the store is, for messages. */
  readonly place: string;
}

/** @throws VmckptError USAGE for a store with a bad address */
export function contextOf(command: Command): VerbContext {
  const options = command.optsWithGlobals<GlobalOptions>();
  const { tlsDir, insecurePlaintext = false } = options;
  const store = options.store || defaultStore();
  const addresses = isAddress(store) ? parseAddresses(store) : undefined;
  const connecting = { tlsDir: path.resolve(tlsDir), insecurePlaintext };
  return {
    output: new Output(options),
    get storeDir() {
      if (addresses !== undefined) throw notHere(store, command);
      return path.resolve(store);
    },
    connecting,
    replicas: addresses && { addresses, connecting },
    place: addresses?.join(', ') ?? path.resolve(store),
  };
}

function notHere(store: string, command: Command): VmckptError {
  return new VmckptError('USAGE', `${command.name()} needs a store in a folder of this host, not ${store}`, {
    hint: 'Name a folder with --store.',
  });
}

/** `$XDG_DATA_HOME/vmckpt`; a relative path is invalid by its specification, and is ignored. */
export function defaultStore(): string {
  const { XDG_DATA_HOME: data = '' } = process.env;
  return path.join(path.isAbsolute(data) ? data : path.join(homeDir(), '.local', 'share'), 'vmckpt');
}

export interface Interruption {
  readonly signal: AbortSignal;
  /** The work is done from here on: an interrupt only gets a message. */
  readonly tooLate: () => void;
}

/**
 * Aborts on the first SIGINT, SIGTERM or SIGHUP (a closed terminal). A second one ends the process at once, without
 * waiting for threads that wait for a disk.
 */
export function interruptible(
  output: Pick<Output, 'message'>,
  whatHappens: string | (() => string),
): Interruption {
  const controller = new AbortController();
  let asked = false;
  let isDone = false;
  const onSignal = () => {
    if (asked) process.exit(EXIT_CODES.interrupted);
    asked = true;
    process.on('exit', exitNow);
    if (isDone)
      return output.message(
        'Too late to interrupt: the work is done. Press Ctrl-C again to exit immediately.',
      );
    output.message(typeof whatHappens === 'string' ? whatHappens : whatHappens());
    controller.abort(new VmckptError('INTERRUPTED', 'interrupted'));
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal);
  return { signal: controller.signal, tooLate: () => (isDone = true) };
}
