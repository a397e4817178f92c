/** `vmckpt man`: the manual page vmckpt(1), made from the tree of verbs. Source of the format: man(7). */
import type { Argument, Command, Option } from 'commander';
import { packageVersion } from '../util/package-paths.js';
import { EXIT_MEANINGS, verb } from './verb.js';

export function manCommand(): Command {
  return verb('man', 'Print the manual page, for man -l -.', ['usage']).action(
    (_flags: object, command: Command) => {
      process.stdout.write(manualPage(command.parent!));
    },
  );
}

/** @returns roff */
export function manualPage(program: Command): string {
  const today = new Date().toISOString().slice(0, 10);
  const { commands } = program;
  return [
    `.TH VMCKPT 1 ${today} "vmckpt ${packageVersion()}" "User Commands"`,
    // Names of variables must not be hyphenated.
    '.nh',
    '.ad l',
    ...section('NAME', fill(`vmckpt - ${lowerFirst(program.description()).replace(/\.$/, '')}`)),
    ...section('SYNOPSIS', ['.B vmckpt', '.RI [ options ]', '.I verb', '.RI [ arguments ]']),
    ...section('DESCRIPTION', paragraphs(DESCRIPTION)),
    ...section('OPTIONS', program.createHelp().visibleOptions(program).flatMap(describeOption)),
    ...section('VERBS', commands.flatMap(describeVerb)),
    ...section(
      'EXIT STATUS',
      EXIT_MEANINGS.flatMap(([code, meaning]) => entry(bold(String(code)), meaning)),
    ),
    ...section(
      'ENVIRONMENT',
      VARIABLES.flatMap(([name, meaning]) => entry(bold(name), meaning)),
    ),
    ...section(
      'FILES',
      FILES.flatMap(([name, meaning]) => entry(`\\fI${escape(name)}\\fR`, meaning)),
    ),
    ...section(
      'EXAMPLES',
      EXAMPLES.flatMap(([command, meaning]) => entry(bold(command), meaning)),
    ),
    ...section('SEE ALSO', ['.BR qemu-system-x86_64 (1),', '.BR userfaultfd (2)']),
    '',
  ].join('\n');
}

const MAX_LINE = 78;

const DESCRIPTION = `vmckpt saves a running QEMU virtual machine into a store of checkpoints, and starts it again
from there: it runs as soon as its CPU and device state are loaded, while its memory follows on demand.

A checkpoint holds the memory of its guest, secrets included. Restore only checkpoints that you trust.

Results go to standard output, messages and progress to standard error. Every option can also be given as a variable:
the option counts before the variable, the variable before the default.`;

const VARIABLES: readonly (readonly [string, string])[] = [
  [
    'VMCKPT_RUNTIME_DIR',
    'Where the sockets, logs and state of restored VMs are. By default /run/vmckpt for root and /tmp/vmckpt-UID for other users.',
  ],
  ['VMCKPT_NATIVE', '"none": do not use the native addon, even if there is one.'],
  [
    'VMCKPT_DEBUG',
    'Print what happens inside to standard error, and to the logs of the processes in the background: 1 for everything, or areas with commas between them (docs/debugging.md).',
  ],
  ['XDG_DATA_HOME', 'By default, the store is the folder vmckpt in it. If unset: ~/.local/share.'],
  [
    'XDG_STATE_HOME',
    'The key that seals your checkpoints is in the folder vmckpt in it. If unset: ~/.local/state.',
  ],
  ['NO_COLOR', 'If set, no colours are used.'],
];

const FILES: readonly (readonly [string, string])[] = [
  ['STORE/NAME/GENERATION/', 'A checkpoint. Its files never change.'],
  ['STATE_DIR/seal-key', 'The key that seals your checkpoints. The first save makes it.'],
  ['RUNTIME_DIR/vms/NAME/', 'A restored VM: its sockets, its state and the logs of its processes.'],
  ['RUNTIME_DIR/saves/', 'Locks of running saves, and the settings that they must restore.'],
];

const EXAMPLES: readonly (readonly [string, string])[] = [
  ['vmckpt save qmp:/run/web.sock web', 'Checkpoint a VM while it runs.'],
  ['vmckpt restore web', 'Restore its newest generation.'],
  ['vmckpt restore --count 3 web', 'Start three clones next to it: web.1, web.2, web.3.'],
  ['vmckpt uffd web --socket /run/web.sock', 'Serve the memory of a Firecracker VM.'],
  ['vmckpt prune --keep-last 3 --dry-run', 'What would go if the newest three of each name were kept.'],
  ['vmckpt list --json', 'List what is stored, for a script.'],
];

function describeVerb(command: Command): string[] {
  const usage = command.usage().replace('[options]', '').trim();
  return [
    `.SS ${bold(command.name())} ${escape(usage)}`.trimEnd(),
    ...paragraphs(command.description()),
    ...command.registeredArguments.flatMap(describeArgument),
    ...command.options.flatMap(describeOption),
  ];
}

function describeArgument(argument: Argument): string[] {
  const choices = argument.argChoices === undefined ? '' : ` (${argument.argChoices.join(', ')})`;
  return entry(`\\fI${escape(argument.name())}\\fR`, `${sentence(argument.description)}${choices}`);
}

function describeOption(option: Option): string[] {
  const { flags, description, argChoices, defaultValueDescription, envVar } = option;
  const preset: unknown = defaultValueDescription ?? option.defaultValue;
  const notes = [
    sentence(description),
    ...(argChoices === undefined || argChoices.length < 2 ? [] : [`One of ${argChoices.join(', ')}.`]),
    ...(typeof preset === 'string' || typeof preset === 'number' ? [`Default: ${preset}.`] : []),
    ...(envVar === undefined ? [] : [`Variable: ${envVar}.`]),
  ];
  return entry(bold(flags), notes.join(' '));
}

function section(title: string, lines: readonly string[]): string[] {
  return [`.SH ${title}`, ...lines];
}

function entry(term: string, text: string): string[] {
  return ['.TP', term, ...fill(text)];
}

function paragraphs(text: string): string[] {
  return text
    .split('\n\n')
    .flatMap((paragraph, index) => [...(index === 0 ? [] : ['.PP']), ...fill(paragraph)]);
}

/** Wraps text to lines that checkers of manual pages accept. */
function fill(text: string): string[] {
  const lines: string[] = [];
  let current = '';
  for (const word of text.split(/\s+/).map(escape)) {
    if (current !== '' && current.length + word.length >= MAX_LINE) {
      lines.push(current);
      current = '';
    }
    current += current === '' ? word : ` ${word}`;
  }
  // A line that begins with a dot or a quote would be a request.
  return [...lines, current].map((line) => line.replace(/^(?=[.'])/, '\\&'));
}

function bold(text: string): string {
  return `\\fB${escape(text)}\\fR`;
}

function escape(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll('…', '...')
    .replaceAll('’', '\\(cq')
    .replaceAll('–', '\\(en')
    .replaceAll('→', '\\(->');
}

function sentence(text: string): string {
  // qmp:/path is not a word.
  const begun = /^[a-z]+[ ,]/.test(text) ? `${text.charAt(0).toUpperCase()}${text.slice(1)}` : text;
  return /[.?!]$/.test(begun) ? begun : `${begun}.`;
}

function lowerFirst(text: string): string {
  return `${text.charAt(0).toLowerCase()}${text.slice(1)}`;
}
