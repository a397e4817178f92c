/**
 * What processes and the fetcher say to each other: lines of JSON over the socket in the cache's folder. A connection is
 * about one generation, which is not removed from the cache as long as the connection lasts.
 *
 *     client                       fetcher
 *       attach ───────────────────→  finds or begins the generation, fetches its beginning
 *       ←──────────── attached | failed
 *       plan, fill ───────────────→  bulk begins
 *       ←──────────────── status, whenever something has changed
 *       (closes)                     the generation may go, if there is no room
 */
import * as v from 'valibot';
import { ERROR_CODES, type ErrorCode } from '../../errors.js';
import { natural, text } from '../../util/schema.js';

export const MAX_LINE_BYTES = 4 << 20;
const MAX_SOURCES = 16;

const span = v.object({ packId: text, offset: natural, length: natural });

export const requestSchema = v.variant('type', [
  v.object({
    type: v.literal('attach'),
    /** NAME or NAME@NUMBER, at the sources. */
    reference: text,
    /** Addresses of replicas. */
    sources: v.pipe(v.array(text), v.minLength(1), v.maxLength(MAX_SOURCES)),
    /** Where it is, if it was attached before: then no source has to be there. */
    dir: v.optional(text),
    /** Whole packs on this host, by packKey(). */
    seeds: v.record(text, text),
    cacheBytes: v.optional(natural),
    tlsDir: v.optional(text),
    insecurePlaintext: v.optional(v.boolean()),
  }),
  /** More ranges that will be wanted soon, in this order. */
  v.object({ type: v.literal('plan'), ranges: v.array(span) }),
  /** All of it is wanted some time. */
  v.object({ type: v.literal('fill') }),
]);
export type Request = v.InferOutput<typeof requestSchema>;
export type AttachRequest = Extract<Request, { type: 'attach' }>;

const sourceStatus = v.object({
  label: text,
  /** Why it is not asked; missing if it is. */
  problem: v.optional(text),
});

export const statusSchema = v.object({
  type: v.literal('status'),
  /** Of its packs. */
  totalBytes: natural,
  presentBytes: natural,
  isComplete: v.boolean(),
  /** That came over the network for it since this connection began, small files included. */
  receivedBytes: natural,
  sources: v.array(sourceStatus),
  /** How long no source could be asked; 0 if one can be. */
  awayMs: natural,
  /** Whether something waits for a range, and no source is here that has it. */
  isWaiting: v.boolean(),
  /** What sources have sent that is not as its checksum says. */
  damage: v.array(text),
});
export type Status = v.InferOutput<typeof statusSchema>;

export const answerSchema = v.variant('type', [
  v.object({ type: v.literal('attached'), dir: text, name: text, number: natural }),
  v.object({
    type: v.literal('failed'),
    code: v.custom<ErrorCode>((code) => typeof code === 'string' && code in ERROR_CODES),
    message: text,
    hint: v.optional(text),
  }),
  statusSchema,
]);
export type Answer = v.InferOutput<typeof answerSchema>;
export type Attached = Extract<Answer, { type: 'attached' }>;
