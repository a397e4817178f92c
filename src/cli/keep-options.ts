/** `--keep-…`: which generations stay. */
import { InvalidArgumentError, type Command } from 'commander';
import {
  parseDuration,
  requirePolicy,
  type CalendarDuration,
  type RetentionPolicy,
} from '../store/retention.js';
import { option } from './verb.js';

export interface KeepFlags {
  readonly keepLast?: number;
  readonly keepWithin?: CalendarDuration;
  readonly keepHourly?: number;
  readonly keepDaily?: number;
  readonly keepWeekly?: number;
}

export function addKeepOptions(command: Command): Command {
  return command
    .addOption(
      option(
        '--keep-last <n>',
        'keep the newest n generations ("unlimited": all), and delete those that no --keep option keeps',
      ).argParser(parseCount),
    )
    .addOption(
      option(
        '--keep-within <duration>',
        'keep what is younger than this, counted back from the newest generation: 1y6m7d12h (m: months)',
      ).argParser(parseWithin),
    )
    .addOption(
      option(
        '--keep-hourly <n>',
        'keep the newest generation of each of the last n hours that have one',
      ).argParser(parseCount),
    )
    .addOption(option('--keep-daily <n>', 'the same for days').argParser(parseCount))
    .addOption(option('--keep-weekly <n>', 'the same for weeks, from Monday').argParser(parseCount));
}

/**
 * @returns undefined when no rule was given
 * @throws VmckptError USAGE when the rules keep nothing
 */
export function policyOf(flags: KeepFlags): RetentionPolicy | undefined {
  const policy = {
    ...(flags.keepLast !== undefined && { last: flags.keepLast }),
    ...(flags.keepWithin !== undefined && { within: flags.keepWithin }),
    ...(flags.keepHourly !== undefined && { hourly: flags.keepHourly }),
    ...(flags.keepDaily !== undefined && { daily: flags.keepDaily }),
    ...(flags.keepWeekly !== undefined && { weekly: flags.keepWeekly }),
  };
  if (Object.keys(policy).length === 0) return undefined;
  requirePolicy(policy);
  return policy;
}

function parseCount(text: string): number {
  if (text === 'unlimited') return Infinity;
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected a whole number or "unlimited".');
}

function parseWithin(text: string): CalendarDuration {
  const duration = parseDuration(text);
  if (duration !== undefined) return duration;
  throw new InvalidArgumentError('expected years, months, days and hours, as in 1y6m7d12h.');
}
