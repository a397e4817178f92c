/** Shared parts of schemas, and the message for input that does not match. */
import * as v from 'valibot';

/** How much messages quote of malformed text. */
const MAX_QUOTED = 40;

/** JSON allows 1e999, which is read as Infinity. */
export const finite = v.pipe(v.number(), v.finite());
export const integer = v.pipe(v.number(), v.safeInteger());
export const natural = v.pipe(integer, v.minValue(0));

/** Text that may become an argument of a command line; arguments end with a NUL. */
export const text = v.pipe(
  v.string(),
  v.check((value) => !value.includes('\0'), 'Invalid text: Expected no NUL character'),
);

/** An object with any keys and one type of value. Arrays are refused. */
export function record<T extends v.GenericSchema>(values: T) {
  return v.pipe(
    v.unknown(),
    v.check((input) => !Array.isArray(input), 'Invalid type: Expected Object but received Array'),
    v.record(text, values),
  );
}

/** @throws Error that says where `input` first fails to match, and why */
export function parse<T>(schema: v.GenericSchema<unknown, T>, input: unknown): T {
  const parsed = v.safeParse(schema, input);
  if (parsed.success) return parsed.output;
  throw new Error(misfit(parsed.issues));
}

/** `disks.0.file: Invalid type: Expected string but received 7`. The input may be long or hostile, so it is cut. */
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
