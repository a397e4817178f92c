/** `vmckpt completion SHELL`: prints a script for the shell, made from the tree of verbs. */
import { Argument, type Command } from 'commander';
import { bashScript, fishScript, modelOf, zshScript } from './completion-scripts.js';
import { verb } from './verb.js';

const SCRIPTS = { bash: bashScript, zsh: zshScript, fish: fishScript } as const;

export function completionCommand(): Command {
  return verb(
    'completion',
    'Print a completion script for a shell.\n\n' +
      'For bash: source <(vmckpt completion bash). For zsh: vmckpt completion zsh > FOLDER/_vmckpt, with FOLDER in $fpath.\n' +
      'For fish: vmckpt completion fish > ~/.config/fish/completions/vmckpt.fish.',
    ['usage'],
  )
    .summary('Print a completion script for a shell.')
    .addArgument(new Argument('<shell>', 'the shell').choices(Object.keys(SCRIPTS)))
    .action((shell: keyof typeof SCRIPTS, _flags: object, command: Command) => {
      process.stdout.write(SCRIPTS[shell](modelOf(command.parent!)));
    });
}
