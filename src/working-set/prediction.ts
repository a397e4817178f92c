/**
 * What a serving process expects a VM to touch, from earlier restores, and what this restore teaches the next ones
 * (docs/working-set.md). A restore without a prediction teaches as well.
 */
import type { CheckpointReader } from '../checkpoint/reader.js';
import type { BackgroundPlan } from '../native/index.js';
import { updateWorkingSet } from './file.js';
import { refreshHotPack } from './hot-pack.js';
import { planNextRestore, writeNextPlan } from './next-plan.js';
import { DEFAULT_WISHES, prefetchedBy, type PrefetchPlan, type PrefetchWishes } from './plan.js';
import { concatenated, type PageRuns } from './runs.js';
import { TraceRecorder } from './trace.js';
import { installUnits, type InstallUnits } from './units.js';
import { learnRestore, type WorkingSet } from './working-set.js';
import { randomU32 } from '../util/random.js';

const NOTHING: PageRuns = new Uint32Array(0);
const NO_PLAN = {
  beforeResume: NOTHING,
  afterResume: [],
  beside: NOTHING,
  likely: NOTHING,
  warm: NOTHING,
  withheld: NOTHING,
  restMs: 0,
} as const;
/** How long withheld pages may show whether they are touched. A later touch is not an early one. */
const WITHHELD_MS = 1_000;

export interface ObservedFaults {
  /** (page, microseconds since `beganAtMs`) each, in no order. */
  readonly faults: Uint32Array;
  /** Wall clock, ms. */
  readonly beganAtMs: number;
  readonly resumedAtMs: number;
  /** All of the memory was installed. */
  readonly isComplete: boolean;
  /** Every page that was touched is among the faults. */
  readonly isExact: boolean;
}

export class Prediction {
  /** Why there is no prediction although there might be one, as a clause for the user. */
  readonly problem: string | undefined;
  /** When this time is over, nothing more is started before the first instruction. */
  readonly budgetMs: number;
  readonly #reader: CheckpointReader;
  readonly #units: InstallUnits;
  readonly #wishes: PrefetchWishes;
  readonly #plan: PrefetchPlan | undefined;

  /** `wishes` undefined: no prediction. */
  constructor(reader: CheckpointReader, wishes: PrefetchWishes | undefined) {
    this.#reader = reader;
    this.#units = installUnits(reader);
    this.budgetMs = wishes?.budgetMs ?? 0;
    this.#wishes = wishes ?? DEFAULT_WISHES;
    if (wishes === undefined) return;
    const { plan, problem } = planNextRestore(reader.hints, this.#units, wishes);
    this.problem = problem;
    this.#plan = plan;
  }

  /** Pages to load before the first instruction, the hottest first; empty without a prediction. */
  get beforeResume(): PageRuns {
    return this.#plan?.beforeResume ?? NOTHING;
  }

  /** All predicted pages, and those that are withheld to see whether the guest misses them. */
  get planned(): { readonly queued: PageRuns; readonly withheld: PageRuns } {
    const { beforeResume, afterResume, withheld } = this.#plan ?? NO_PLAN;
    return { queued: concatenated([beforeResume, ...afterResume]), withheld };
  }

  /** What the background loads first. */
  get background(): BackgroundPlan {
    const { beforeResume, afterResume, beside, warm, likely, restMs } = this.#plan ?? NO_PLAN;
    return {
      predicted: concatenated([beforeResume, ...afterResume]),
      near: concatenated([beside, warm]),
      likely,
      restMs,
      withheldMs: this.planned.withheld.length > 0 ? WITHHELD_MS : 0,
    };
  }

  /** Everything worth reading before it is requested. */
  get worthReading(): PageRuns {
    const { beforeResume, afterResume, warm } = this.#plan ?? NO_PLAN;
    return concatenated([beforeResume, ...afterResume, warm]);
  }

  /** Records what was observed as a hint. @returns why that was not possible, as a clause for the user */
  async learn({ faults, beganAtMs, resumedAtMs, ...about }: ObservedFaults): Promise<string | undefined> {
    const recorder = new TraceRecorder();
    const offsetUs = (beganAtMs - resumedAtMs) * 1000;
    for (let at = 0; at < faults.length; at += 2) recorder.fault(faults[at]!, faults[at + 1]! + offsetUs);
    const plan = this.#plan;
    const { pageCount } = this.#reader.layout;
    const trace = recorder.finish({
      resumedAtMs,
      runId: (BigInt(randomU32()) << 32n) | BigInt(randomU32()),
      generation: this.#reader.manifest.generation,
      pageCount,
      prefetched: plan === undefined ? NOTHING : prefetchedBy(plan),
      withheld: plan?.withheld ?? NOTHING,
      explorePhase: plan?.explorePhase ?? 0,
      ...about,
    });
    let known: WorkingSet | undefined;
    const problem = await updateWorkingSet(this.#reader.hints, pageCount, (former) => {
      known = learnRestore(former, { trace, units: this.#units });
      return known;
    });
    if (problem !== undefined || known === undefined) return problem;
    const next = { ...known, units: this.#units };
    const noPlan = await writeNextPlan(this.#reader.hints, next, this.#wishes);
    return (await refreshHotPack(this.#reader.hints, this.#reader, next)) ?? noPlan;
  }
}
