/** A process's interest in one generation: what it is told about its arrival. */
import type { VmckptError } from '../../errors.js';
import type { CachedGeneration } from './bring.js';
import type { FetchedPack } from './fetched-pack.js';
import type { Status } from './messages.js';
import type { OpenedSources } from './opened-sources.js';
import type { Source } from './source.js';

const MAX_NAMED_DAMAGE = 20;

export interface AttachmentParts {
  readonly generation: CachedGeneration;
  readonly opened: OpenedSources;
  /** Those that are not whole. */
  readonly packs: readonly FetchedPack[];
  /** Why nothing can be written. */
  readonly problem: () => VmckptError | undefined;
}

export class Attachment {
  readonly generation: CachedGeneration;
  readonly opened: OpenedSources;
  readonly packs: readonly FetchedPack[];
  /** Called when its status has changed. */
  changed: () => void = () => undefined;
  readonly #problem: () => VmckptError | undefined;
  readonly #damage = new Set<string>();
  /** What was received for other attachments. */
  readonly #otherBytes: number;

  constructor({ generation, opened, packs, problem }: AttachmentParts) {
    this.generation = generation;
    this.opened = opened;
    this.packs = packs;
    this.#problem = problem;
    this.#otherBytes = receivedBytes(packs);
  }

  noteDamage(source: Source, pack: FetchedPack, offset: number): void {
    if (this.#damage.size < MAX_NAMED_DAMAGE)
      this.#damage.add(`${source.label} has sent a damaged extent: pack-${pack.id}, offset ${offset}`);
    this.changed();
  }

  /** @param isWaiting whether something waits for a source */
  statusAt(nowMs: number, isWaiting: boolean): Status {
    const { manifest, smallBytes } = this.generation;
    const totalBytes = manifest.pages.fileBytes;
    const missingBytes = this.packs.reduce(
      (sum, { arriving }) => sum + arriving.pack.fileBytes - arriving.presentBytes,
      0,
    );
    return {
      type: 'status',
      totalBytes,
      presentBytes: totalBytes - missingBytes,
      isComplete: this.packs.every(({ isFinished }) => isFinished),
      receivedBytes: receivedBytes(this.packs) - this.#otherBytes + smallBytes,
      sources: this.opened.sources.map((source) => ({
        label: source.label,
        problem: this.#problemOf(source),
      })),
      awayMs: this.#awayMs(nowMs),
      isWaiting,
      damage: [...this.#damage],
    };
  }

  #problemOf(source: Source): string | undefined {
    return this.#problem()?.message ?? this.opened.refusalOf(source) ?? source.absence?.problem;
  }

  #awayMs(nowMs: number): number {
    const { sources } = this.opened;
    const asked = sources.filter((source) => this.opened.refusalOf(source) === undefined);
    if (asked.some(({ isHere }) => isHere)) return 0;
    const lastHereMs = Math.max(...asked.map(({ absence }) => absence?.sinceMs ?? nowMs));
    return asked.length === 0 ? 0 : Math.round(nowMs - lastHereMs);
  }
}

function receivedBytes(packs: readonly FetchedPack[]): number {
  return packs.reduce((sum, pack) => sum + pack.receivedBytes, 0);
}
