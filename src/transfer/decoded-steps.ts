/** Walks over the pages of a source in address order, a step at a time, with the next steps being decoded meanwhile. */
import { PAGE_KINDS, type BulkDecoder, type DecodedExtents, type PageSource } from '../pages/contracts.js';
import type { PageRange } from '../pages/layout.js';

/** 512 KiB: what waits behind one step waits for little. */
const PAGES_PER_STEP = 128;
/** Steps that are being decoded while one is used. */
const STEPS_AHEAD = 2;

/** The pages of a range that carry data, decoded; valid until the next step is asked for. */
export interface DecodedStep extends PageRange {
  /** Extent → its decoded pages. */
  readonly bytesOf: ReadonlyMap<number, Uint8Array>;
}

export interface StepOptions {
  readonly source: PageSource;
  readonly decoder: BulkDecoder;
  readonly range: PageRange;
  /** Pages that it refuses need not be decoded. */
  readonly isWanted: (page: number) => boolean;
}

/** @throws VmckptError EXTENT_DAMAGED, INDEX_DAMAGED */
export async function* decodedSteps(options: StepOptions): AsyncGenerator<DecodedStep, undefined> {
  const steps = stepsOf(options);
  const ahead: { step: Step; decoded: Promise<DecodedExtents> }[] = [];
  try {
    for (;;) {
      while (ahead.length <= STEPS_AHEAD) {
        const { value: step } = steps.next();
        if (step === undefined) break;
        const decoded = options.decoder.decode(step.extents);
        decoded.catch(() => undefined); // awaited below; a failure must not count as unhandled before that
        ahead.push({ step, decoded });
      }
      const next = ahead.shift();
      if (next === undefined) return;
      const { step } = next;
      const decoded = await next.decoded;
      const bytesOf = new Map(
        step.extents.map((extent, position) => [extent, decoded.bytesAt(position)] as const),
      );
      yield { firstPage: step.firstPage, endPage: step.endPage, bytesOf };
      decoded.release();
    }
  } finally {
    for (const { decoded } of ahead) void decoded.then((extents) => extents.release()).catch(() => undefined);
  }
}

interface Step extends PageRange {
  readonly extents: readonly number[];
}

/** A step ends only where a new extent would begin, so that few extents are read twice. */
function* stepsOf({ source, range, isWanted }: StepOptions): Generator<Step, undefined> {
  let { firstPage } = range;
  let stepPages = 0;
  let extents = new Set<number>();
  for (let page = firstPage; page < range.endPage; page++) {
    const kind = source.kindOf(page);
    if ((kind !== PAGE_KINDS.data && kind !== PAGE_KINDS.fill) || !isWanted(page)) continue;
    const extent = kind === PAGE_KINDS.data ? source.extentOf(page) : undefined;
    if (stepPages >= PAGES_PER_STEP && !(extent !== undefined && extents.has(extent))) {
      yield { firstPage, endPage: page, extents: [...extents] };
      firstPage = page;
      stepPages = 0;
      extents = new Set();
    }
    if (extent !== undefined) extents.add(extent);
    stepPages++;
  }
  yield { firstPage, endPage: range.endPage, extents: [...extents] };
  return undefined;
}
