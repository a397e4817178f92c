/** Walks over pages of a checkpoint in steps, and decodes the next steps in the meantime. */
import { PAGE_KINDS, type DecodedExtents, type ExtentSource, type PageCatalog } from '../pages/contracts.js';

/** 512 KiB: small, so that nothing waits long behind a step. */
const PAGES_PER_STEP = 128;
/** Steps that are decoded while one is used. */
const STEPS_AHEAD = 2;

/** Pages to be sent together; those with data are decoded. Valid until the next step is requested. */
export interface DecodedStep {
  readonly pages: readonly number[];
  /** Extent → its decoded pages. */
  readonly bytesOf: ReadonlyMap<number, Uint8Array>;
}

export interface StepOptions {
  readonly catalog: PageCatalog;
  readonly extents: ExtentSource;
  /** Read a few steps ahead. */
  readonly pages: Iterable<number>;
  readonly signal?: AbortSignal | undefined;
}

/** @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED; the signal's reason */
export async function* decodedSteps(options: StepOptions): AsyncGenerator<DecodedStep, undefined> {
  const steps = stepsOf(options);
  const ahead: { step: Step; decoded: Promise<DecodedExtents> }[] = [];
  try {
    for (;;) {
      while (ahead.length <= STEPS_AHEAD) {
        const { value: step } = steps.next();
        if (step === undefined) break;
        const decoded = options.extents.read(step.extents, options.signal);
        decoded.catch(() => undefined); // awaited below; a failure must not count as unhandled before that
        ahead.push({ step, decoded });
      }
      const next = ahead.shift();
      if (next === undefined) return;
      const { pages, extents } = next.step;
      const decoded = await next.decoded;
      const bytesOf = new Map(
        extents.map((extent, position) => [extent, decoded.bytesAt(position)] as const),
      );
      try {
        yield { pages, bytesOf };
      } finally {
        decoded.release();
      }
    }
  } finally {
    for (const { decoded } of ahead) void decoded.then((extents) => extents.release()).catch(() => undefined);
  }
}

interface Step {
  readonly pages: readonly number[];
  readonly extents: readonly number[];
}

/** A step ends only where a new extent begins, so that few extents are read twice. */
function* stepsOf({ catalog, pages }: StepOptions): Generator<Step, undefined> {
  let inStep: number[] = [];
  let extents = new Set<number>();
  for (const page of pages) {
    const extent = catalog.kindOf(page) === PAGE_KINDS.data ? catalog.extentOf(page) : undefined;
    if (inStep.length >= PAGES_PER_STEP && !(extent !== undefined && extents.has(extent))) {
      yield { pages: inStep, extents: [...extents] };
      inStep = [];
      extents = new Set();
    }
    if (extent !== undefined) extents.add(extent);
    inStep.push(page);
  }
  if (inStep.length > 0) yield { pages: inStep, extents: [...extents] };
  return undefined;
}
