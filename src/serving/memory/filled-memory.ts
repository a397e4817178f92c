/** Memory that native threads fill: they answer its faults at once, and install the rest when told to. */
import { availableParallelism } from 'node:os';
import { damageOf } from '../../checkpoint/native-image.js';
import { VmckptError } from '../../errors.js';
import { FaultServer, type FaultServerOptions, type ServerEventKind } from '../../native/index.js';
import { nowMs } from '../../timeline/clock.js';
import { debug } from '../../util/debug.js';

const DEMAND_THREADS = 2;
const MAX_BACKGROUND_THREADS = 4;

export function backgroundThreadCount(): number {
  return Math.min(availableParallelism(), MAX_BACKGROUND_THREADS);
}

type Damaged = Extract<ServerEventKind, 'extent-damaged' | 'index-damaged'>;

export interface FilledMemoryOptions extends Omit<
  FaultServerOptions,
  'demandThreads' | 'backgroundThreads' | 'onEvent'
> {
  /** Called each time a damaged part of memory is met. Everything else is still served. */
  readonly onDamage: (damage: VmckptError) => void;
}

export class FilledMemory {
  readonly server: FaultServer;
  #waitsForSource = false;
  /** When faults began to be served: wall clock, ms. */
  readonly beganAtMs: number;
  /**
   * Resolves when all data is in place, or when the process that owns the memory has ended. Rejects when pages cannot
   * be installed.
   */
  readonly settled: Promise<'complete' | 'gone'>;

  /** Starts to serve faults. */
  constructor({ onDamage, ...options }: FilledMemoryOptions) {
    let settle!: { resolve: (how: 'complete' | 'gone') => void; reject: (error: Error) => void };
    this.settled = new Promise((resolve, reject) => (settle = { resolve, reject }));
    this.settled.catch(() => undefined); // awaited by what serves the memory
    this.server = new FaultServer({
      ...options,
      demandThreads: DEMAND_THREADS,
      backgroundThreads: backgroundThreadCount(),
      onEvent: (kind, text) => {
        if (kind === 'complete' || kind === 'gone') settle.resolve(kind);
        else if (kind === 'failed') settle.reject(servingFailed(text));
        else if (kind === 'starving' || kind === 'fed') this.#noteSource(kind, text);
        else onDamage(damageOf(CODES[kind], text));
      },
    });
    this.beganAtMs = nowMs();
  }

  /** Whether a fault is not served because the source does not have its page yet. */
  get waitsForSource(): boolean {
    return this.#waitsForSource;
  }

  #noteSource(kind: 'starving' | 'fed', text: string): void {
    this.#waitsForSource = kind === 'starving';
    debug('serving', () => (kind === 'fed' ? 'no page waits for its source' : `a page waits: ${text}`));
  }
}

const CODES = {
  'extent-damaged': 'EXTENT_DAMAGED',
  'index-damaged': 'INDEX_DAMAGED',
} as const satisfies Record<Damaged, string>;

function servingFailed(text: string): VmckptError {
  return new VmckptError('TRANSFER_FAILED', `memory could not be put in place: ${text}`, {
    hint: 'The VM hangs on its missing memory: end it, and restore it again.',
  });
}
