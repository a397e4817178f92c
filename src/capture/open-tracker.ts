/** Finds the best write tracker that host, kernel and VM allow. */
import { closeSync } from 'node:fs';
import {
  addonProblem,
  hasAddon,
  newSoftDirty,
  newWriteProtection,
  softDirtyProblem,
  writeProtectionProblem,
} from '../native/index.js';
import { holdersOf } from './held-tracking.js';
import { memoryChanged, readingQemu } from './refused.js';
import { takeUserfaultfd } from './take-userfaultfd.js';
import { memoryProblem } from './trackable.js';
import {
  ALL_PAGES,
  type PageRuns,
  type TrackerKind,
  type TrackerOptions,
  type WriteTracker,
} from './tracker.js';

/** There is always the kind `none`. @throws VmckptError as readingQemu(); the signal's reason */
export async function openTracker(options: TrackerOptions): Promise<WriteTracker> {
  const problem = addonProblem() ?? memoryProblem(options.pid, options.regions);
  if (problem !== undefined) return newUntracked(options, problem);
  const protection = await openWriteProtection(options);
  if (typeof protection !== 'string') return protection;
  const bits = openSoftDirty(options, protection);
  return typeof bits === 'string' ? newUntracked(options, `${protection}; ${bits}`) : bits;
}

export function newUntracked(options: TrackerOptions, shortfall: string): WriteTracker {
  return new Untracked(options, shortfall);
}

/** Of the host, before there is a VM: the best kind, and why it is no better one. */
export function bestTracker(): { readonly kind: TrackerKind; readonly shortfall: string | undefined } {
  const problem = hasAddon() ? writeProtectionProblem() : addonProblem();
  if (problem === undefined) return { kind: 'write-protection', shortfall: undefined };
  const other = hasAddon() ? softDirtyProblem() : undefined;
  if (hasAddon() && other === undefined) return { kind: 'soft-dirty', shortfall: problem };
  return { kind: 'none', shortfall: other === undefined ? problem : `${problem}; ${other}` };
}

/** @returns why there is none, as a clause, where there is none. @throws the signal's reason */
export async function openWriteProtection(options: TrackerOptions): Promise<WriteTracker | string> {
  const problem = writeProtectionProblem();
  if (problem !== undefined) return problem;
  const userfaultfd = await takeUserfaultfd(options);
  if (typeof userfaultfd === 'string') return userfaultfd;
  try {
    const native = newWriteProtection(userfaultfd, options);
    native.register();
    return new WriteProtected(native, userfaultfd);
  } catch (error) {
    closeSync(userfaultfd);
    return unregistrable(options.pid, error as NodeJS.ErrnoException);
  }
}

/**
 * Goes on with a userfaultfd that was armed before, for the same memory: `take()` and `look()` tell what was written since.
 * It is closed with the tracker. Where the memory lies elsewhere now, it tells of nothing: the caller compares the regions.
 */
export function resumeWriteProtection(options: TrackerOptions, userfaultfd: number): WriteTracker {
  return new WriteProtected(newWriteProtection(userfaultfd, options), userfaultfd);
}

/** @param shortfall why it is not a better one. @returns why there is none, as a clause, where there is none */
export function openSoftDirty(options: TrackerOptions, shortfall: string): WriteTracker | string {
  const problem = softDirtyProblem();
  if (problem !== undefined) return problem;
  try {
    return new Tracked('soft-dirty', newSoftDirty(options), shortfall);
  } catch (error) {
    return `soft-dirty bits cannot be read: ${(error as Error).message}`;
  }
}

/** A mapping has one userfaultfd at a time. */
function unregistrable(pid: number, { code, message }: NodeJS.ErrnoException): string {
  if (code !== 'EBUSY') return `its memory cannot be write-protected: ${message}`;
  const [holder] = holdersOf(pid);
  return holder === undefined
    ? 'a userfaultfd has its memory already: a migration, a background snapshot or another save is under way'
    : `process ${holder} keeps track of what it writes, for a save --track of another user or with another runtime folder`;
}

class Tracked implements WriteTracker {
  readonly #native: ReturnType<typeof newSoftDirty>;

  constructor(
    readonly kind: TrackerKind,
    native: ReturnType<typeof newSoftDirty>,
    readonly shortfall: string | undefined,
  ) {
    this.#native = native;
  }

  get takesAtOnce(): boolean {
    return false;
  }

  get userfaultfd(): number | undefined {
    return undefined;
  }

  arm(): void {
    this.told(() => this.#native.arm());
  }

  look({ firstPage, pageCount } = ALL_PAGES): PageRuns {
    return this.told(() => this.#native.look(firstPage, pageCount));
  }

  lookForWrites(): PageRuns {
    return this.look();
  }

  take(): PageRuns {
    return this.told(() => this.#native.take());
  }

  close(): void {
    this.#native.close();
  }

  protected told<T>(ask: () => T): T {
    return readingQemu(ask);
  }
}

/** With the last descriptor of a userfaultfd the kernel lifts its protection. */
class WriteProtected extends Tracked {
  readonly #protection: ReturnType<typeof newWriteProtection>;
  #userfaultfd: number | undefined;

  constructor(native: ReturnType<typeof newWriteProtection>, userfaultfd: number) {
    super('write-protection', native, undefined);
    this.#protection = native;
    this.#userfaultfd = userfaultfd;
  }

  override get takesAtOnce(): boolean {
    return true;
  }

  override get userfaultfd(): number | undefined {
    return this.#userfaultfd;
  }

  override lookForWrites(): PageRuns {
    return this.told(() => this.#protection.lookForWrites());
  }

  override close(): void {
    super.close();
    if (this.#userfaultfd !== undefined) closeSync(this.#userfaultfd);
    this.#userfaultfd = undefined;
  }

  /** The kernel answers EPERM where other memory lies now, which is not protected. */
  protected override told<T>(ask: () => T): T {
    return super.told(() => {
      try {
        return ask();
      } catch (error) {
        throw (error as NodeJS.ErrnoException).code === 'EPERM' ? memoryChanged(error) : error;
      }
    });
  }
}

/** Every page counts as written. */
class Untracked implements WriteTracker {
  readonly kind = 'none';
  readonly takesAtOnce = true;
  readonly userfaultfd = undefined;
  readonly #all: PageRuns;

  constructor(
    { regions }: TrackerOptions,
    readonly shortfall: string,
  ) {
    this.#all = joined(regions.map(({ firstPage, pageCount }) => [firstPage, pageCount]));
  }

  arm(): void {}

  look(): PageRuns {
    return this.#all;
  }

  lookForWrites(): PageRuns {
    return this.#all;
  }

  take(): PageRuns {
    return this.#all;
  }

  close(): void {}
}

/** @param runs ascending */
function joined(runs: readonly (readonly [firstPage: number, pageCount: number])[]): PageRuns {
  const numbers: number[] = [];
  for (const [first, count] of runs) {
    if (numbers.length > 0 && numbers.at(-2)! + numbers.at(-1)! === first)
      numbers[numbers.length - 1]! += count;
    else numbers.push(first, count);
  }
  return Uint32Array.from(numbers);
}
