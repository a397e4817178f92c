/**
 * The messages of a page server and its clients (docs/protocol.md). A client sends requests, each with a number of its own.
 * The server answers each once, with what the table of replies gives, or with an error:
 *
 *     client                                  server
 *       |-- hello: versions, features ---------->|
 *       |<-------- the version, the features ----|   or an error, and the end
 *       |-- open: web@3 ------------------------>|   keeps web@3 from being removed
 *       |<--------- names, lengths, manifest ----|
 *       |-- read: pack, range, lane, deadline -->|
 *       |-- read -------------------------------->|   demand before predicted before rest,
 *       |<----------------------- bytes, more ---|   piece by piece
 *       |<----------------------------- bytes ---|
 *       |<------------------------ going away ---|   no further requests; those under way are answered
 */
import * as v from 'valibot';
import { listedFactsSchema } from '../../checkpoint/manifest-schema.js';
import { natural } from '../../util/schema.js';
import { LANES, MAX_RANGE_BYTES, MAX_WRITTEN_HINT_BYTES, SMALL_FILES } from '../contracts.js';
import { fileCodec, json, readCodec, type Codec } from './codecs.js';
import { errorSchema } from './errors.js';
import { malformed, type Frame } from './frame.js';
import {
  MAX_ASKED_PACKS,
  MAX_FEATURES,
  MAX_FILE_NAME_BYTES,
  MAX_PIECE_BYTES,
  MAX_REFERENCE_CHARS,
} from './limits.js';

/** The oldest and the newest version that this build speaks. */
export const VERSIONS = { min: 1, max: 1 } as const;
/** What a server may leave out. */
export const FEATURES = ['push', 'hints', 'remove'] as const;
export type Feature = (typeof FEATURES)[number];

const u32 = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(0xffff_ffff));
const word = v.pipe(v.string(), v.maxLength(MAX_FILE_NAME_BYTES));
const reference = v.pipe(v.string(), v.maxLength(MAX_REFERENCE_CHARS));
const id = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/));
const packIds = v.pipe(v.array(id), v.maxLength(MAX_ASKED_PACKS));
const features = v.pipe(v.array(word), v.maxLength(MAX_FEATURES));
const nothing = v.strictObject({});

/** Type on the wire, and the payload of every request. */
const REQUESTS = {
  hello: [
    1,
    json(v.strictObject({ versions: v.strictObject({ min: u32, max: u32 }), features, agent: word })),
  ],
  ping: [2, json(nothing)],
  list: [3, json(nothing)],
  /** With `manifestXxh3` only a generation with that manifest is opened, which is not sent. */
  open: [
    4,
    json(
      v.strictObject({ reference, manifestXxh3: v.optional(v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/))) }),
    ),
  ],
  /** Ends what `open` or `push` began. */
  close: [5, json(v.strictObject({ handle: u32 }))],
  read: [6, readCodec],
  readFile: [
    7,
    json(
      v.strictObject({
        handle: u32,
        file: v.picklist(SMALL_FILES),
        offset: natural,
        length: v.pipe(natural, v.maxValue(MAX_RANGE_BYTES)),
        lane: v.picklist(LANES),
      }),
    ),
  ],
  /** `target` is the request that is no longer wanted. */
  cancel: [8, json(v.strictObject({ target: u32 }))],
  have: [9, json(v.strictObject({ packIds }))],
  push: [10, json(v.strictObject({ name: reference, number: natural, id }))],
  received: [11, json(v.strictObject({ handle: u32, file: word }))],
  put: [12, fileCodec(MAX_PIECE_BYTES)],
  commit: [13, json(v.strictObject({ handle: u32 }))],
  writeHint: [14, fileCodec(MAX_WRITTEN_HINT_BYTES)],
  remove: [15, json(v.strictObject({ reference }))],
  statistics: [16, json(nothing)],
} as const satisfies Record<string, readonly [number, Codec<unknown>]>;

export type RequestKind = keyof typeof REQUESTS;
type BodyOf<C> = C extends Codec<infer T> ? T : never;
export type RequestBody<K extends RequestKind> = BodyOf<(typeof REQUESTS)[K][1]>;
export type Request = {
  [K in RequestKind]: { readonly kind: K; readonly id: number; readonly body: RequestBody<K> };
}[RequestKind];

/** The features that requests need. */
const NEEDED: Partial<Record<RequestKind, Feature>> = {
  push: 'push',
  received: 'push',
  put: 'push',
  commit: 'push',
  writeHint: 'hints',
  remove: 'remove',
};

/** What a request is answered with: a result, bytes, or both one after the other. */
const REPLIES = {
  hello: {
    result: json(
      v.strictObject({ version: u32, features, agent: word, maxRequests: u32, maxHandles: u32, idleMs: u32 }),
    ),
  },
  ping: { result: json(nothing) },
  /** A line of JSON for each generation. */
  list: { bytes: true },
  /** The bytes are the manifest. */
  open: {
    result: json(
      v.strictObject({
        handle: u32,
        name: reference,
        number: natural,
        manifestXxh3: v.string(),
        files: v.pipe(
          v.array(v.strictObject({ file: v.picklist(SMALL_FILES), bytes: natural })),
          v.maxLength(SMALL_FILES.length),
        ),
      }),
    ),
    bytes: true,
  },
  close: { result: json(nothing) },
  read: { bytes: true },
  readFile: { bytes: true },
  cancel: { result: json(nothing) },
  have: { result: json(v.strictObject({ packIds })) },
  push: { result: json(v.strictObject({ handle: u32, isCommitted: v.boolean() })) },
  received: { result: json(v.strictObject({ bytes: natural })) },
  put: { result: json(nothing) },
  commit: { result: json(nothing) },
  writeHint: { result: json(nothing) },
  remove: { result: json(nothing) },
  statistics: { result: json(v.record(word, v.number())) },
} as const satisfies Record<RequestKind, { readonly result?: Codec<unknown>; readonly bytes?: true }>;

export type ResultOf<K extends RequestKind> = (typeof REPLIES)[K] extends {
  readonly result: Codec<infer T>;
}
  ? T
  : undefined;

/** Types of frames that a server sends. */
export const REPLY_TYPES = { result: 64, bytes: 65, error: 66, goingAway: 67 } as const;

export const errorCodec = json(errorSchema);
export const goingAwayCodec = json(nothing);

/** A line of a listing. */
export const listedSchema = v.strictObject({
  name: reference,
  generation: natural,
  facts: v.optional(listedFactsSchema),
  problem: v.optional(v.strictObject({ code: v.string(), message: v.string() })),
});

const KINDS = new Map<number, RequestKind>(
  (Object.keys(REQUESTS) as RequestKind[]).map((kind) => [REQUESTS[kind][0], kind]),
);

/** For the server's FrameReader. */
export function maxRequestBytes(type: number): number | undefined {
  const kind = KINDS.get(type);
  return kind && REQUESTS[kind][1].maxBytes;
}

/** For the client's FrameReader. */
export function maxReplyBytes(type: number): number | undefined {
  if (type === REPLY_TYPES.bytes) return MAX_PIECE_BYTES;
  const isControl = Object.values<number>(REPLY_TYPES).includes(type);
  return isControl ? errorCodec.maxBytes : undefined;
}

export function encodeRequest<K extends RequestKind>(
  kind: K,
  body: RequestBody<K>,
): { readonly type: number; readonly payload: Uint8Array } {
  const [type, codec] = REQUESTS[kind] as unknown as readonly [number, Codec<RequestBody<K>>];
  return { type, payload: codec.encode(body) };
}

/** @throws VmckptError SOURCE_MALFORMED */
export function decodeRequest({ type, id: number, more, payload }: Frame): Request {
  const kind = KINDS.get(type)!;
  if (more || number === 0) throw malformed('a request without a number, or in several frames');
  return { kind, id: number, body: REQUESTS[kind][1].decode(payload) } as Request;
}

export function featureOf(kind: RequestKind): Feature | undefined {
  return NEEDED[kind];
}

/** A result, bytes, or both one after the other. */
export function replyShape(kind: RequestKind): { readonly hasResult: boolean; readonly hasBytes: boolean } {
  return { hasResult: 'result' in REPLIES[kind], hasBytes: 'bytes' in REPLIES[kind] };
}

/** @throws RangeError for a request that is answered with bytes alone */
export function encodeResult(kind: RequestKind, result: unknown): Uint8Array {
  return resultCodec(kind).encode(result);
}

/** @throws VmckptError SOURCE_MALFORMED; RangeError for a request that is answered with bytes alone */
export function decodeResult(kind: RequestKind, payload: Uint8Array): unknown {
  return resultCodec(kind).decode(payload);
}

function resultCodec(kind: RequestKind): Codec<unknown> {
  const reply = REPLIES[kind];
  if ('result' in reply) return reply.result;
  throw new RangeError(`${kind} has no result`);
}
