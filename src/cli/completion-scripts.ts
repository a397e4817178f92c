/**
 * Completion scripts, one function for each shell, made from a plain model of the verbs. The scripts query the names of
 * checkpoints and restored VMs when they need them.
 */
import type { Argument, Command, Option } from 'commander';

interface OptionModel {
  readonly long: string;
  readonly short: string | undefined;
  readonly description: string;
  readonly takesValue: boolean;
  readonly choices: readonly string[];
  readonly isDirectory: boolean;
}

interface ArgumentModel {
  readonly name: string;
  readonly completes: 'names' | 'checkpoints' | 'vms' | 'choices' | 'files';
  readonly choices: readonly string[];
  readonly isRepeated: boolean;
}

interface VerbModel {
  readonly name: string;
  readonly summary: string;
  readonly options: readonly OptionModel[];
  readonly arguments: readonly ArgumentModel[];
}

export interface CompletionModel {
  readonly options: readonly OptionModel[];
  readonly verbs: readonly VerbModel[];
}

export function modelOf(program: Command): CompletionModel {
  return {
    options: program.createHelp().visibleOptions(program).map(optionModel),
    verbs: program.commands.map((command) => ({
      name: command.name(),
      summary: command.summary() || command.description(),
      options: command.options.map(optionModel),
      arguments: command.registeredArguments.map(argumentModel),
    })),
  };
}

function optionModel({
  long,
  short,
  description,
  required,
  optional,
  argChoices,
  flags,
}: Option): OptionModel {
  return {
    long: long!,
    short,
    description,
    takesValue: required || optional,
    choices: argChoices ?? [],
    isDirectory: flags.includes('<dir'),
  };
}

const ARGUMENT_KINDS: Readonly<Record<string, ArgumentModel['completes']>> = {
  reference: 'checkpoints',
  name: 'names',
  'vm-name': 'vms',
};

function argumentModel(argument: Argument): ArgumentModel {
  const name = argument.name();
  const choices = argument.argChoices ?? [];
  const completes = choices.length > 0 ? 'choices' : (ARGUMENT_KINDS[name] ?? 'files');
  return { name, choices, completes, isRepeated: argument.variadic };
}

/** Commands that work in every shell. */
const LIST_NAMES = `vmckpt list --quiet 2>/dev/null | awk 'NR > 1 { print $1 }' | uniq`;
const LIST_CHECKPOINTS = `vmckpt list --quiet 2>/dev/null | awk 'NR > 1 { if ($1 != last) print $1; print $1 "@" $2; last = $1 }'`;
const LIST_VMS = `vmckpt ps --quiet 2>/dev/null | awk 'NR > 1 { print $1 }'`;

export function bashScript({ options, verbs }: CompletionModel): string {
  const values = [
    ...options.map((option) => bashValues('*', option)),
    ...verbs.flatMap((verb) => verb.options.map((option) => bashValues(verb.name, option))),
  ].filter((line) => line !== undefined);
  const flagsOf = (of: readonly OptionModel[]) => of.map(({ long }) => long).join(' ');
  return `# bash completion for vmckpt, printed by: vmckpt completion bash
_vmckpt_names() { ${LIST_NAMES}; }
_vmckpt_checkpoints() { ${LIST_CHECKPOINTS}; }
_vmckpt_vms() { ${LIST_VMS}; }
_vmckpt() {
  local line=\${COMP_LINE:0:COMP_POINT} prev=\${COMP_WORDS[COMP_CWORD-1]} verb= words= word cut
  local cur=\${line##*[[:space:]]}
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in ${verbs.map(({ name }) => name).join('|')}) verb=$word; break ;; esac
  done
  case $verb:$prev in
${values.join('\n')}
    *)
      case $verb:$cur in
${verbs
  .filter(({ options: own }) => own.length > 0)
  .map(({ name, options: own }) => `        ${name}:-*) words='${flagsOf([...own, ...options])}' ;;`)
  .join('\n')}
        *:-*) words='${flagsOf(options)}' ;;
${verbs.flatMap((verb) => bashArguments(verb)).join('\n')}
        :*) words='${verbs.map(({ name }) => name).join(' ')}' ;;
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  # Readline may cut words at "@" and replaces only what is behind it.
  cut=\${cur%"\${cur##*@}"}
  if [[ -n $cut && $COMP_WORDBREAKS == *@* ]]; then COMPREPLY=("\${COMPREPLY[@]#"$cut"}"); fi
}
complete -o default -F _vmckpt vmckpt
`;
}

/** The values of an option. Without a list, readline itself completes file names. */
function bashValues(verb: string, option: OptionModel): string | undefined {
  if (!option.takesValue) return undefined;
  if (option.isDirectory) return `    ${verb}:${option.long}) compopt -o dirnames +o default; return ;;`;
  if (option.choices.length === 0) return `    ${verb}:${option.long}) return ;;`;
  return `    ${verb}:${option.long}) words='${option.choices.join(' ')}' ;;`;
}

function bashArguments({ name, arguments: own }: VerbModel): string[] {
  const words = own.flatMap(({ completes, choices }) =>
    completes === 'choices' ? choices : completes === 'files' ? [] : [`$(_vmckpt_${completes})`],
  );
  return words.length === 0
    ? [`        ${name}:*) ;;`]
    : [`        ${name}:*) words="${words.join(' ')}" ;;`];
}

export function zshScript({ options, verbs }: CompletionModel): string {
  return `#compdef vmckpt
# zsh completion for vmckpt, printed by: vmckpt completion zsh
_vmckpt_names() { local -a found; found=(\${(f)"$(${LIST_NAMES})"}); compadd -a found }
_vmckpt_checkpoints() { local -a found; found=(\${(f)"$(${LIST_CHECKPOINTS})"}); compadd -a found }
_vmckpt_vms() { local -a found; found=(\${(f)"$(${LIST_VMS})"}); compadd -a found }
_vmckpt() {
  local state line
  typeset -A opt_args
  local -a verbs=(
${verbs.map(({ name, summary }) => `    ${quote(`${name}:${firstLine(summary)}`)}`).join('\n')}
  )
  local -a global=(
${options.map((option) => `    ${zshOption(option)}`).join('\n')}
  )
  _arguments -C $global '1:verb:->verb' '*::argument:->argument'
  case $state in
    verb) _describe verb verbs ;;
    argument)
      case $words[1] in
${verbs.map(zshVerb).join('\n')}
      esac ;;
  esac
}
if [[ $funcstack[1] == _vmckpt ]]; then _vmckpt "$@"; else compdef _vmckpt vmckpt; fi
`;
}

function zshVerb({ name, options, arguments: own }: VerbModel): string {
  const specs = [
    ...options.map(zshOption),
    ...own.map((argument, index) =>
      quote(`${argument.isRepeated ? '*' : index + 1}:${argument.name}:${zshAction(argument)}`),
    ),
  ];
  return `        ${name}) _arguments $global ${specs.join(' ')} ;;`;
}

function zshAction({ completes, choices }: ArgumentModel): string {
  if (completes === 'choices') return `(${choices.join(' ')})`;
  return completes === 'files' ? '_files' : `_vmckpt_${completes}`;
}

function zshOption({ long, description, takesValue, choices, isDirectory }: OptionModel): string {
  const text = description.replaceAll('[', '\\[').replaceAll(']', '\\]').replaceAll(':', '\\:');
  const values = choices.length > 0 ? `(${choices.join(' ')})` : isDirectory ? '_files -/' : '_files';
  return quote(`${long}[${text}]${takesValue ? `:value:${values}` : ''}`);
}

export function fishScript({ options, verbs }: CompletionModel): string {
  const lines = [
    '# fish completion for vmckpt, printed by: vmckpt completion fish',
    `function __vmckpt_names; ${LIST_NAMES}; end`,
    `function __vmckpt_checkpoints; ${LIST_CHECKPOINTS}; end`,
    `function __vmckpt_vms; ${LIST_VMS}; end`,
    ...options.map((option) => `complete -c vmckpt ${fishOption(option)}`),
    ...verbs.flatMap((verb) => {
      const inVerb = `complete -c vmckpt -n ${quote(`__fish_seen_subcommand_from ${verb.name}`)}`;
      return [
        `complete -c vmckpt -n __fish_use_subcommand -f -a ${verb.name} -d ${quote(firstLine(verb.summary))}`,
        ...verb.options.map((option) => `${inVerb} ${fishOption(option)}`),
        ...verb.arguments
          .filter(({ completes }) => completes !== 'files')
          .map((argument) => `${inVerb} -f -a ${quote(fishWords(argument))}`),
      ];
    }),
  ];
  return `${lines.join('\n')}\n`;
}

function fishWords({ completes, choices }: ArgumentModel): string {
  return completes === 'choices' ? choices.join(' ') : `(__vmckpt_${completes})`;
}

function fishOption({ long, short, description, takesValue, choices }: OptionModel): string {
  const names = `-l ${long.slice(2)}${short === undefined ? '' : ` -s ${short.slice(1)}`}`;
  const value = !takesValue ? '' : choices.length > 0 ? ` -x -a ${quote(choices.join(' '))}` : ' -r';
  return `${names}${value} -d ${quote(description)}`;
}

function firstLine(text: string): string {
  return text.split('\n', 1)[0]!;
}

/** For sh, zsh and fish alike. */
function quote(text: string): string {
  return `'${text.replaceAll("'", '’')}'`;
}
