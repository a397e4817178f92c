/**
 * The story of a page-fault handler: open the image, wait for a VM on a socket, serve its memory, fill the rest
 * (first what earlier VMs requested), and hand the memory back, so that the VM needs no handler any more.
 * docs/uffd.md explains how to use it and what it guarantees.
 */
import { holdsMemoryOnly, type Manifest } from '../checkpoint/manifest.js';
import { openNativeImage } from '../checkpoint/native-image.js';
import { VmckptError } from '../errors.js';
import { requireAddon, type CheckpointImage, type FaultPathCounters } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { Store } from '../store/store.js';
import { nowMs, roundMs } from '../timeline/clock.js';
import { formatBytes } from '../util/units.js';
import { DEFAULT_EXPLORE, type PrefetchWishes } from '../working-set/plan.js';
import { Prediction } from '../working-set/prediction.js';
import { GuestMemory } from './guest-memory.js';
import { Listener } from './listener.js';
import { Peer } from './peer.js';

const PROGRESS_EVERY_MS = 100;
/** A VM may run as soon as it has handed over its memory, so nothing can be installed before it runs. */
const WISHES: PrefetchWishes = { budgetMs: 0, explore: DEFAULT_EXPLORE };

export interface ServeOptions {
  readonly storeDir: string;
  /** NAME or NAME@GENERATION, of bare memory. */
  readonly reference: string;
  readonly socketPath: string;
  /** What to do with a VM whose memory is damaged: let it wait, or kill it. */
  readonly onFailure: 'report' | 'kill';
  /** Installs only what the VM requests, as long as it lives. */
  readonly demandOnly: boolean;
  readonly onProgress: (doneBytes: number, totalBytes: number) => void;
  readonly onMessage: (text: string) => void;
  /** Called when a VM has handed over its memory. */
  readonly onPeer: () => void;
  /** A VM that is already being served still gets all of its memory. */
  readonly signal: AbortSignal;
}

export interface ServeReport {
  readonly name: string;
  readonly generation: number;
  readonly peerPid: number;
  /** `handed-back`: the VM has all of its memory and needs no handler; `vm-ended`: it ended before that. */
  readonly ending: 'handed-back' | 'vm-ended';
  /** Of the memory that the VM handed over. */
  readonly ramBytes: number;
  readonly storedBytes: number;
  /** From the handshake until all data was in place; null if that never happened. */
  readonly completeMs: number | null;
  readonly servedMs: number;
  readonly demandFaults: number;
  /** The part of them on pages that were withheld, to see whether the guest misses them. */
  readonly withheldFaults: number;
  readonly prefetchedPages: number;
  readonly backgroundPages: number;
  readonly zeroPages: number;
  readonly removedPages: number;
  /** Time inside the handler for each demand fault. */
  readonly faultUs: {
    readonly p50: number;
    readonly p90: number;
    readonly p99: number;
    readonly max: number;
  };
}

interface Served {
  readonly manifest: Manifest;
  readonly image: CheckpointImage;
  readonly prediction: Prediction;
  readonly peer: Peer;
}

/**
 * @throws VmckptError NO_CHECKPOINT and what else opening a generation throws, NOT_MEMORY_ONLY, FILE_EXISTS, NATIVE_MISSING,
 *   INTERRUPTED before there was a VM; EXTENT_DAMAGED, INDEX_DAMAGED, TRANSFER_FAILED
 */
export async function serveMemory(options: ServeOptions): Promise<ServeReport> {
  requireAddon('vmckpt uffd');
  const store = await Store.open(options.storeDir);
  const generation = await store.locate(options.reference);
  const use = generation.hold();
  try {
    const { dir, manifest } = generation;
    requireMemoryOnly(manifest);
    const reader = generation.openReader();
    const image = openNativeImage(dir, manifest);
    const prediction = new Prediction(reader, options.demandOnly ? undefined : WISHES);
    if (prediction.problem !== undefined) options.onMessage(`Nothing is predicted: ${prediction.problem}.`);
    image.readAhead(prediction.worthReading);
    const peer = await awaitPeer(manifest, options);
    options.onPeer();
    try {
      return await serve({ manifest, image, prediction, peer }, options);
    } finally {
      peer.close();
      reader.close();
    }
  } finally {
    use.release();
  }
}

function requireMemoryOnly(manifest: Manifest): void {
  if (holdsMemoryOnly(manifest)) return;
  const { name, generation } = manifest;
  throw new VmckptError(
    'NOT_MEMORY_ONLY',
    `${name}@${generation} holds a whole QEMU machine, expected bare memory`,
    { hint: `vmckpt restore ${name}@${generation} starts it. vmckpt import --raw-memory makes bare memory.` },
  );
}

/** Returns the first peer whose memory can be served. Refuses others, and reports why. */
async function awaitPeer(manifest: Manifest, options: ServeOptions): Promise<Peer> {
  const { signal, onMessage } = options;
  signal.throwIfAborted();
  const listener = await Listener.open(options.socketPath);
  try {
    onMessage(`Waiting for a VM on ${options.socketPath}.`);
    for await (const connection of listener.connections(signal)) {
      try {
        return await Peer.receive(connection.fd, manifest.sizes.ramBytes, signal);
      } catch (error) {
        if (!(error instanceof VmckptError) || error.code !== 'HANDSHAKE_REFUSED') throw error;
        onMessage(`Refused: ${error.message}.`);
      } finally {
        connection.close();
      }
    }
    throw new Error('the listener has ended by itself');
  } finally {
    listener.close();
  }
}

async function serve(
  { manifest, image, prediction, peer }: Served,
  options: ServeOptions,
): Promise<ServeReport> {
  const startMs = nowMs();
  const { signal, onMessage } = options;
  const ramBytes = peer.regions.reduce((sum, { bytes }) => sum + bytes, 0);
  onMessage(`Serving ${formatBytes(ramBytes)} of memory to process ${peer.identity.pid}.`);
  const damage = new DamageReport(peer, options);
  const memory = new GuestMemory({
    image,
    pageCount: manifest.sizes.ramBytes / PAGE_BYTES,
    userfaultfd: peer.userfaultfd,
    regions: peer.regions,
    prediction,
    onDamage: (error) => damage.add(error),
  });
  const fill = () => memory.fill();
  const progress = setInterval(
    () => options.onProgress(installedBytes(memory.counters()), manifest.sizes.nonZeroBytes),
    PROGRESS_EVERY_MS,
  );
  const watch = new AbortController();
  try {
    if (!options.demandOnly || signal.aborted) fill();
    signal.addEventListener('abort', fill, { once: true });
    const ended = peer.ended(watch.signal).then(() => 'vm-ended' as const);
    ended.catch(() => undefined); // the watch was cancelled
    const settled = await Promise.race([ended, memory.settled, damage.untilGivenUp(signal)]);
    const completeMs = settled === 'complete' ? roundMs(nowMs() - startMs) : null;
    const observed = { ...memory.observed(), isComplete: settled === 'complete' };
    const handedBack = settled === 'complete' && (await handBack(memory, ended, options));
    if (settled !== 'complete') damage.throwIfAny();
    const problem = await prediction.learn(observed);
    if (problem !== undefined) onMessage(`Nothing is learned: ${problem}.`);
    return {
      name: manifest.name,
      generation: manifest.generation,
      peerPid: peer.identity.pid,
      ending: handedBack ? 'handed-back' : 'vm-ended',
      ramBytes,
      storedBytes: manifest.sizes.storedBytes,
      completeMs,
      servedMs: roundMs(nowMs() - startMs),
      ...countersIn(memory.counters()),
    };
  } catch (error) {
    if (options.onFailure === 'kill') damage.endPeer();
    throw error;
  } finally {
    watch.abort();
    clearInterval(progress);
    signal.removeEventListener('abort', fill);
    memory.stop();
  }
}

/** Returns whether the VM goes on by itself. If not, it has been served until it ended. */
async function handBack(
  memory: GuestMemory,
  ended: Promise<unknown>,
  { onMessage }: ServeOptions,
): Promise<boolean> {
  try {
    memory.handBack();
    return true;
  } catch (error) {
    onMessage(
      `The memory cannot be handed back (${(error as Error).message}): it is served until the VM ends.`,
    );
    await ended;
    return false;
  }
}

/** Collects which memory is damaged. The VM goes on until it needs that memory, unless it is to be killed. */
class DamageReport {
  readonly #peer: Peer;
  readonly #options: ServeOptions;
  #first: VmckptError | undefined;
  #giveUp: (error: VmckptError) => void = () => undefined;

  constructor(peer: Peer, options: ServeOptions) {
    this.#peer = peer;
    this.#options = options;
  }

  add(error: VmckptError): void {
    const { onFailure, onMessage, signal } = this.#options;
    this.#first ??= error;
    if (onFailure === 'kill' || signal.aborted) return this.#giveUp(this.#first);
    onMessage(`${error.message}. A VM that needs it hangs. All other memory is still served.`);
  }

  /** Rejects when going on is pointless: the VM's memory should become complete, and cannot. */
  untilGivenUp(signal: AbortSignal): Promise<never> {
    return new Promise((_resolve, reject) => {
      this.#giveUp = reject;
      const check = () => {
        if (this.#first !== undefined) reject(this.#first);
      };
      signal.addEventListener('abort', check, { once: true });
    });
  }

  throwIfAny(): void {
    if (this.#first !== undefined) throw this.#first;
  }

  endPeer(): void {
    this.#options.onMessage(`Killing process ${this.#peer.identity.pid}, whose memory cannot be completed.`);
    this.#peer.kill();
  }
}

function installedBytes({ demandPages, neighbourPages, backgroundPages }: FaultPathCounters): number {
  return (demandPages + neighbourPages + backgroundPages) * PAGE_BYTES;
}

function countersIn(counters: FaultPathCounters) {
  const { demandFaults, withheldFaults, prefetchedPages, backgroundPages, zeroPages, removedPages } =
    counters;
  const { faultP50Us: p50, faultP90Us: p90, faultP99Us: p99, faultMaxUs: max } = counters;
  return {
    demandFaults,
    withheldFaults,
    prefetchedPages,
    backgroundPages,
    zeroPages,
    removedPages,
    faultUs: { p50, p90, p99, max },
  };
}
