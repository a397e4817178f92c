/** Rewrites commander's usage errors in the style of all other messages. */
import type { Command, CommanderError } from 'commander';
import { VmckptError } from '../errors.js';
import { QEMU_ARGS_HINT } from './verb.js';

/** Commander's message, and ours. `$1` is quoted from it. */
const WORDS: readonly (readonly [pattern: RegExp, words: string])[] = [
  [/^missing required argument '(.*)'$/, '<$1> is missing'],
  [/^unknown option '(.*)'/, "there is no option '$1'"],
  [/^unknown command '(.*)'/, 'there is no verb "$1"'],
  [/^too many arguments for '(.*)'\. Expected (\d+) .* got (\d+)\.$/, '$1 takes $2 arguments, not $3'],
  [/^option '(.*)' argument missing$/, '$1 has no value'],
  [/^required option '(.*)' not specified$/, '$1 is missing'],
  [
    /^(?:option|environment variable) '(.*)' cannot be used with (?:option|environment variable) '(.*)'$/,
    '$1 and $2 exclude each other',
  ],
  [/^option '(.*)' argument '(.*)' is invalid\. (.*)$/s, '"$2" is not a value of $1: $3'],
  [/^option '(.*)' value '(.*)' from env '(.*)' is invalid\. (.*)$/s, '$3="$2" is not a value of $1: $4'],
  [/^command-argument value '(.*)' is invalid for argument '(.*)'\. (.*)$/s, '"$1" is not a <$2>: $3'],
];

export function usageError({ code, message }: CommanderError, program: Command): VmckptError {
  const [verb, topic] = program.args;
  return new VmckptError('USAGE', wordsFor(code, message, verb === 'help' ? topic : undefined), {
    hint: hintFor(code, verb, program),
  });
}

function wordsFor(code: string, message: string, topic: string | undefined): string {
  if (code === 'commander.help')
    return topic === undefined ? 'a verb is missing' : `there is no verb "${topic}"`;
  const said = message.replace(/^error: /, '');
  const found = WORDS.find(([pattern]) => pattern.test(said));
  const text = found === undefined ? said : said.replace(found[0], found[1]);
  return text.replace(/Allowed choices are (.*)\.$/, 'expected one of $1').replace(/\.$/, '');
}

function hintFor(code: string, verb: string | undefined, program: Command): string {
  if (code === 'commander.unknownOption' && verb === 'restore') return QEMU_ARGS_HINT;
  const isVerb = verb !== undefined && program.commands.some((command) => command.name() === verb);
  return isVerb ? `vmckpt help ${verb} explains it.` : 'vmckpt --help shows all verbs.';
}
