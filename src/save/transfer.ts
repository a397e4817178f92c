/** From QEMU into a generation's folder: QEMU sends and we write, side by side. */
import * as v from 'valibot';
import { DeviceCapture } from '../capture/device-capture.js';
import { CheckpointWriter, type Chain } from '../checkpoint/writer.js';
import { VmckptError } from '../errors.js';
import { asUnpaused, globalStateIn, withGlobalState } from '../migration-stream/global-state.js';
import type { ParsedStream } from '../migration-stream/parser.js';
import type { VmDescription } from '../qemu/inspect.js';
import type { QemuVersion, QmpClient } from '../qemu/qmp.js';
import { roundMs } from '../timeline/clock.js';
import { withDeadline } from '../util/deadline.js';
import { parkAt } from '../util/park.js';
import { DirtyPages } from './dirty-pages.js';
import type { DiskWatch } from './disk-watch.js';
import { hold, letGo } from './held-migration.js';
import type { Instant } from './instant.js';
import { progressOf, runLive, type LiveMethod, type MethodResult, type StreamMethod } from './methods.js';
import { PrecopyLimit } from './precopy-limit.js';
import { readHeldMemory, readStream, type ReadStreamOptions } from './read-stream.js';
import { Receiver } from './receiver.js';
import { isLive, refuseLostSleep, savedStateOf, type SavedState } from './run-states.js';
import type { VmJournal } from './vm-journal.js';

/** What is left then fits into the pipe and the writer's queue. */
const END_TIMEOUT_MS = 120_000;

export interface TransferOptions {
  readonly qmp: QmpClient;
  readonly vm: VmDescription;
  readonly method: StreamMethod;
  /** A VM that has to be paused runs on as soon as its state is read; else it stays paused. */
  readonly runsOn: boolean;
  /** Of the generation that is written. */
  readonly dir: string;
  readonly chain: Chain;
  readonly journal: VmJournal;
  readonly level: number | 'none';
  readonly instant: Instant;
  readonly disks: DiskWatch;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  readonly signal: AbortSignal;
}

export interface Transferred {
  readonly stream: ParsedStream;
  readonly writer: CheckpointWriter;
  /** Those that the guest wrote to meanwhile, as far as that is known. */
  readonly dirtyPages: readonly number[];
  readonly result: MethodResult;
  /** Of the VM at the instant that was saved. */
  readonly state: SavedState;
}

/** @throws VmckptError MIGRATION_FAILED, NO_SPACE, VM_STATE, TIMEOUT, QMP_CLOSED, or the signal's reason */
export async function transfer(options: TransferOptions): Promise<Transferred> {
  const { qmp, vm, method, dir, chain, level, onMessage } = options;
  const receiver = await Receiver.start({ method });
  let writer: CheckpointWriter | undefined;
  let dirty: DirtyPages | undefined;
  const giveUp = new AbortController();
  const signal = AbortSignal.any([options.signal, giveUp.signal]);
  const limit =
    method === 'precopy'
      ? new PrecopyLimit({ qmp, ramBytes: vm.ramBytes, stats: () => writer?.stats, onMessage })
      : undefined;
  const reading: ReadStreamOptions = {
    fd: receiver.stream,
    handler: {
      onLayout: (layout) => {
        writer = CheckpointWriter.create(dir, { layout, level, chain });
        const { pageCount } = layout;
        const sink = limit?.before(writer, pageCount) ?? writer;
        return (dirty = new DirtyPages(sink, { method, pageCount }));
      },
    },
    ready: async () => {
      if (writer !== undefined) await parkAt('streaming');
      await writer?.ready();
      await limit?.ready();
    },
    onProgress: (streamBytes) => {
      limit?.noteRead(streamBytes);
      options.onProgress(streamBytes, vm.ramBytes);
    },
    signal,
  };
  const attempt = { ...options, signal, receiver, reading, limit };
  const running = method === 'stopped' ? runHeld(attempt) : run(method, attempt);
  try {
    const { stream: sent, result } = await Promise.race([running, rejectOnAbort(options.signal)]);
    receiver.discard();
    refuseLostSleep(qmp);
    const pausedByUs = limit?.reached ?? (method === 'stopped' && isLive(vm.status));
    const stream = pausedByUs ? { ...sent, deviceState: asUnpaused(sent.deviceState) } : sent;
    const state = stateIn(stream, qmp.version);
    return { stream, writer: writer!, dirtyPages: dirty!.pages, result, state };
  } catch (error) {
    giveUp.abort(error);
    // At once: while nobody reads, QEMU waits, and a VM that writes with it.
    receiver.discard();
    // What is under way in QEMU's monitor for a live save ends with its migration.
    if (method === 'stopped') await running.catch(() => undefined);
    await writer?.abort();
    throw error;
  }
}

interface Attempt extends TransferOptions {
  readonly receiver: Receiver;
  readonly reading: ReadStreamOptions;
  readonly limit: PrecopyLimit | undefined;
}

interface Sent {
  readonly stream: ParsedStream;
  readonly result: MethodResult;
}

/** The migration of a VM that runs. */
async function run(method: LiveMethod, attempt: Attempt): Promise<Sent> {
  const { qmp, signal, receiver, reading, limit, instant, disks } = attempt;
  const stream = readStream(reading);
  const sending = receiver.lendTo(qmp).then((uri) => {
    // The pipe of a save that was given up in between is taken back: QEMU would fail for want of it.
    signal.throwIfAborted();
    return runLive(method, { qmp, uri, instant, disks, ...(limit && { limit }) });
  });
  sending.catch(() => undefined); // when reading has failed before
  const result = await Promise.race([sending, failureOf(stream)]);
  const ended = await withDeadline(stream, {
    what: 'QEMU to end its stream, and the rest to be written',
    timeoutMs: END_TIMEOUT_MS,
  });
  return { stream: ended, result };
}

const Status = v.object({ status: v.string() });

/** The held migration of a VM that stands still, or is made to. */
async function runHeld(attempt: Attempt): Promise<Sent> {
  const { qmp, vm, runsOn, journal, signal, receiver, reading, instant, disks } = attempt;
  const execute = async (command: string, args?: object): Promise<unknown> => {
    signal.throwIfAborted();
    return qmp.execute(command, args);
  };
  const memory = readHeldMemory(reading);
  memory.catch(() => undefined); // when QEMU has refused something before
  await hold(qmp);
  const capture = await DeviceCapture.prepare(qmp, journal.directory);
  try {
    const uri = await receiver.lendTo(qmp);
    const stoppedMs = performance.now();
    if (isLive(vm.status)) await execute('stop');
    await Promise.all([instant.capture(), disks.note()]);
    await execute('migrate', { uri });
    const { status } = await qmp.query(Status, 'query-status');
    savedStateOf(status, qmp.version);
    const finish = await Promise.race([memory, failureOf(memory), failureOfMigration(qmp)]);
    signal.throwIfAborted();
    const stream = finish(withGlobalState(await capture.take(), status));
    await letGo(qmp, { stream: receiver.stream, signal });
    if (isLive(vm.status) && runsOn) await execute('cont');
    const pauseMs = vm.running ? roundMs(performance.now() - stoppedMs) : 0;
    return { stream, result: { pauseMs, iterations: 1 } };
  } finally {
    capture.close();
  }
}

/** @throws VmckptError VM_STATE when the VM was no longer one to be saved, whatever it was before */
export function stateIn({ deviceState }: ParsedStream, version: QemuVersion): SavedState {
  const { name, sleeps } = globalStateIn(deviceState);
  const state = savedStateOf(name, version);
  return sleeps ? { ...state, vmState: 'suspended' } : state;
}

/** Why the stream could not be stored. When it merely breaks off, QEMU knows better why. */
async function failureOf(writing: Promise<unknown>): Promise<never> {
  await writing.catch((error: unknown) => {
    if (!(error instanceof VmckptError) || error.code !== 'STREAM_TRUNCATED') throw error;
  });
  return new Promise<never>(() => undefined);
}

/** Rejects with what QEMU says of a migration that has no end of its own. */
async function failureOfMigration(qmp: QmpClient): Promise<never> {
  const progress = progressOf(qmp);
  for (;;) await progress.next();
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    const abort = () => reject(signal.reason as Error);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
  });
}
