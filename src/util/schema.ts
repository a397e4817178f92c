/** What schemas have in common, and how it is told what does not fit one. */
import * as v from 'valibot';

/** What messages quote of a text that makes no sense. */
const MAX_QUOTED = 40;

/** JSON can say 1e999, which is read as Infinity. */
export const finite = v.pipe(v.number(), v.finite());
export const integer = v.pipe(v.number(), v.safeInteger());
export const natural = v.pipe(integer, v.minValue(0));

/** Text that can become a part of a command line, whose parts end with a NUL. */
export const text = v.pipe(
  v.string(),
  v.check((value) => !value.includes('\0'), 'Invalid text: Expected no NUL character'),
);

/** Any names, one kind of value. An array is none. */
export function record<T extends v.GenericSchema>(values: T) {
  return v.pipe(
    v.unknown(),
    v.check((input) => !Array.isArray(input), 'Invalid type: Expected Object but received Array'),
    v.record(text, values),
  );
}

/** @throws Error that says where `input` does not fit first, and why */
export function parse<T>(schema: v.GenericSchema<unknown, T>, input: unknown): T {
  const parsed = v.safeParse(schema, input);
  if (parsed.success) return parsed.output;
  throw new Error(misfit(parsed.issues));
}

/** `disks.0.file: Invalid type: Expected string but received 7`. What was found may be long, or hostile. */
export function misfit([issue]: readonly [v.BaseIssue<unknown>, ...v.BaseIssue<unknown>[]]): string {
  const { message, received } = issue;
  const place = v.getDotPath(issue);
  const reason = received.startsWith('"')
    ? message.replace(received, () => quote(received.slice(1, -1)))
    : message;
  return place === null ? reason : `${place}: ${reason}`;
}

export function quote(text: string): string {
  return JSON.stringify(text.length > MAX_QUOTED ? `${text.slice(0, MAX_QUOTED)}…` : text);
}
