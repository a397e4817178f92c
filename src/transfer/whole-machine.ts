/**
 * A whole machine as one ordinary migration stream: all memory, then the devices. Stock QEMU loads it with `-incoming`,
 * from a socket or from a file.
 */
import type { Writable } from 'node:stream';
import { VmckptError } from '../errors.js';
import type { CheckpointReader } from '../checkpoint/reader.js';
import * as wire from '../migration-stream/serializer.js';
import type { ExtentSource, PageCatalog } from '../pages/contracts.js';
import { rangeOf, type PlacedRamBlock } from '../pages/layout.js';
import { Channel } from './channel.js';
import { PageFeeder } from './page-feeder.js';

const AHEAD_BYTES = 2 << 20;

/** Everything that a machine has besides its memory. */
export interface MachineState {
  /** The configuration section of the saved stream, verbatim. */
  readonly configuration: Uint8Array;
  readonly ramSectionId: number;
  readonly deviceState: Uint8Array;
  /** QEMU's description of the device state; empty if there is none. */
  readonly description: Uint8Array;
}

/** @throws VmckptError DEVICE_STATE_DAMAGED, FILE_MISSING, NOT_A_FILE */
export async function readMachineState(reader: CheckpointReader): Promise<MachineState> {
  const { configuration, ramSectionId, description = '' } = reader.manifest.migration;
  return {
    configuration: Buffer.from(configuration, 'base64'),
    ramSectionId,
    deviceState: await reader.deviceState(),
    description: Buffer.from(description),
  };
}

export interface WholeMachineOptions {
  readonly catalog: PageCatalog;
  readonly extents: ExtentSource;
  readonly out: Writable;
  readonly state: MachineState;
  /** Blocks whose memory is already in place (see MemoryFill in src/native); none of their pages is sent. */
  readonly filled?: readonly PlacedRamBlock[];
  readonly signal: AbortSignal;
}

/**
 * Writes everything and ends `out`. Returns when it has closed, with the feeder's counters and the bytes sent. After an
 * error, `out` is destroyed and its contents are useless.
 * @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED; the signal's reason; what `out` fails with
 */
export async function sendWholeMachine({
  catalog,
  extents,
  out,
  state,
  filled = [],
  signal,
}: WholeMachineOptions) {
  const broken = new AbortController();
  out.once('error', (error) => broken.abort(error));
  const either = AbortSignal.any([signal, broken.signal]);
  const channel = new Channel(out, catalog.layout);
  const feeder = new PageFeeder({
    catalog,
    extents,
    demand: channel,
    background: channel,
    backgroundAheadBytes: AHEAD_BYTES,
  });
  const { ramSectionId } = state;
  const ranges = catalog.layout.blocks.filter((block) => !filled.includes(block)).map(rangeOf);
  try {
    channel.send(wire.streamHeader(state.configuration));
    channel.send(wire.ramStart(ramSectionId, catalog.layout));
    channel.send(wire.ramPartOpen(ramSectionId));
    // Memory that QEMU itself has filled, such as firmware, must become zero again where it was zero.
    await feeder.sendZeros(ranges, either);
    await feeder.sendRest(ranges, either);
    channel.send(endOfRam(ramSectionId));
    channel.send(state.deviceState);
    channel.send(wire.END_OF_STREAM);
    if (state.description.byteLength > 0) channel.send(wire.vmDescription(state.description));
    await endAndClose(out, either);
  } catch (error) {
    out.destroy();
    throw error;
  }
  return { feeder, sentBytes: channel.sentBytes };
}

function endOfRam(ramSectionId: number): Buffer {
  const close = wire.ramClose(ramSectionId);
  return Buffer.concat([close, wire.ramEndOpen(ramSectionId), close]);
}

/** The reader at the other end may take any time, so only the signal bounds this wait. */
async function endAndClose(out: Writable, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    out.once('close', resolve);
    out.end((cause?: Error | null) => {
      // A stream that the other side closes has no error of its own.
      const early = () => new VmckptError('TRANSFER_FAILED', 'the other end closed too early', { cause });
      if (cause) reject(out.errored ?? early());
    });
  });
}
