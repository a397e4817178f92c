/**
 * The conversation of a restore. Three processes of vmckpt and QEMU take part: the verb, which may end as soon as the
 * VM runs; the keeper, parent of the other two (without the addon the verb is); and the serving process, or server.
 *
 *     verb                          keeper          server                          QEMU
 *      |-- spawn ------------------->|
 *      |                             |-- spawn ----->| takes transfer.lock, opens the checkpoint,
 *      |                             |               | predicts what will be touched
 *      |<-------------- checkpoint-opened -----------|
 *      |-- start QEMU -------------->|-- spawn --------------------------------------->|
 *      |   (the first QMP answer)    |               |                                 |
 *      |--------------- qemu-ready ----------------->|-- opens a monitor of its own -->|
 *      |-- compares the machine, sets capabilities, migrate-incoming ----------------->|
 *      |   writes vm.json: from here on a successor knows the order                    |
 *      |--------------- order ---------------------->|                                 |
 *      |                             |               |-- memory that is wanted first ->|
 *      |                             |               |-- the machine's state --------->| devices load
 *      |                             |               |<-- requests for pages ----------|
 *      |<--------------------------------------------+---------------- RESUME ---------| the VM runs
 *      |   notes QEMU in vm.json     |               | notes `loaded` in transfer.json |
 *      |<-------------- machine-loaded --------------|                                 |
 *      |--------------- fill ----------------------->|   (order.background: when-told) |
 *      |                             |               |-- all other memory ------------>|
 *      |<-------------- complete --------------------|   learns, and ends              |
 *
 * An eager server sends all memory before the machine's state, and `complete` follows RESUME. `failed` may come at
 * any time instead of the rest. Either side may vanish. The server goes on without a verb. When the server dies, the
 * keeper starts another one with `--successor` (descriptors.ts): it has the verb's line, reads the order in vm.json,
 * takes over what the keeper holds for it, and sends `complete` in its predecessor's place. If no keeper does that,
 * `restore --resume` starts a successor.
 *
 * Messages are lines of JSON. Each has the version of the protocol, because verb and server may be of different builds:
 * the package can be replaced while a VM is restored.
 */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { parse } from '../util/schema.js';
import { countersSchema } from './counters.js';
import { orderSchema } from './order.js';

export const PROTOCOL_VERSION = 1;
/** Size of one message. */
export const MAX_MESSAGE_BYTES = 16 << 20;

const verbSchema = v.variant('type', [
  /** QEMU answers: its monitors can be opened. */
  v.object({ type: v.literal('qemu-ready') }),
  /** QEMU listens on the migration socket. This is what to do. */
  v.object({ type: v.literal('order'), order: orderSchema }),
  /** Starts a background that is `when-told`. */
  v.object({ type: v.literal('fill') }),
]);
export type VerbMessage = v.InferOutput<typeof verbSchema>;

const serverSchema = v.variant('type', [
  v.object({ type: v.literal('checkpoint-opened') }),
  /** QEMU has the machine's state; memory is served on demand. */
  v.object({ type: v.literal('machine-loaded') }),
  v.object({
    type: v.literal('complete'),
    counters: countersSchema,
    /** 0th to 100th percentile. Null: there were no faults, or their times are unknown. */
    faultPercentilesUs: v.nullable(v.array(v.number())),
    /** Wall clock, ms. */
    completeAtMs: v.number(),
  }),
  v.object({
    type: v.literal('failed'),
    code: v.string(),
    message: v.string(),
    hint: v.optional(v.string()),
  }),
]);
export type ServerMessage = v.InferOutput<typeof serverSchema>;

/** One line, including its end. */
export function encode(message: VerbMessage | ServerMessage): string {
  return `${JSON.stringify({ version: PROTOCOL_VERSION, ...message })}\n`;
}

/** @throws VmckptError TRANSFER_FAILED when the verb is of another build, or its message is malformed */
export function decodeVerbMessage(line: string): VerbMessage {
  return decode(verbSchema, line, 'the verb');
}

/** @throws VmckptError TRANSFER_FAILED when the server is of another build, or its message is malformed */
export function decodeServerMessage(line: string): ServerMessage {
  return decode(serverSchema, line, 'the serving process');
}

function decode<T>(schema: v.GenericSchema<unknown, T>, line: string, speaker: string): T {
  let version: unknown;
  try {
    const message = JSON.parse(line) as { readonly version?: unknown } | null;
    version = message?.version;
    if (version === PROTOCOL_VERSION) return parse(schema, message);
  } catch (cause) {
    throw new VmckptError('TRANSFER_FAILED', `a message from ${speaker} is malformed: ${String(cause)}`, {
      cause,
    });
  }
  throw new VmckptError(
    'TRANSFER_FAILED',
    `${speaker} uses version ${String(version)} of the protocol, expected ${PROTOCOL_VERSION}`,
    { hint: 'Another build of vmckpt was installed in the meantime: restore the VM again.' },
  );
}
