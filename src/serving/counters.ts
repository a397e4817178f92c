/** What a transfer reports, summed over the paths that its pages took. */
import type { FaultPathCounters } from '../native/index.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { roundMs } from '../timeline/clock.js';
import type { PageFeeder } from '../transfer/page-feeder.js';
import type { TransferCounters } from '../serving-protocol/counters.js';

export interface TransferWays {
  readonly feeder: PageFeeder | undefined;
  readonly direct: FaultPathCounters | undefined;
  /** Written into QEMU by an eager restore before it ran. */
  readonly filledPages: number;
  readonly sentBytes: number;
}

export function countTransfer({ feeder, direct, filledPages, sentBytes }: TransferWays): TransferCounters {
  const sent = feeder?.counters;
  const unasked = (sent?.backgroundPages ?? 0) + (sent?.neighbourPages ?? 0);
  const unaskedDirect = (direct?.backgroundPages ?? 0) + (direct?.neighbourPages ?? 0);
  const prefetchedDirect = direct?.prefetchedPages ?? 0;
  const directPages = (direct?.demandPages ?? 0) + unaskedDirect + prefetchedDirect;
  return {
    demandFaults: (feeder?.faults.count ?? 0) + (direct?.demandFaults ?? 0),
    withheldFaults: (sent?.withheldFaults ?? 0) + (direct?.withheldFaults ?? 0),
    prefetchedPages: (sent?.prefetchedPages ?? 0) + prefetchedDirect,
    backgroundPages: filledPages + unasked + unaskedDirect,
    zeroPages: (sent?.zeroPages ?? 0) + (direct?.zeroPages ?? 0),
    transferredBytes: (filledPages + directPages) * PAGE_BYTES + sentBytes,
    starvedMs: roundMs((feeder?.starvation.totalMs ?? 0) + (direct?.starvedMs ?? 0)),
    ...faultTimes(feeder, direct),
  };
}

/** Fault times of the path that served the faults: on the direct path, the stream serves only a handful. */
function faultTimes(feeder: PageFeeder | undefined, direct: FaultPathCounters | undefined) {
  if (direct !== undefined && direct.demandFaults > 0) {
    const { faultP50Us, faultP90Us, faultP99Us, faultMaxUs, faultTotalMs } = direct;
    return { faultP50Us, faultP90Us, faultP99Us, faultMaxUs, vcpuBlockedMs: roundMs(faultTotalMs) };
  }
  const times = feeder?.faults.summary();
  return {
    faultP50Us: times?.p50 ?? 0,
    faultP90Us: times?.p90 ?? 0,
    faultP99Us: times?.p99 ?? 0,
    faultMaxUs: times?.max ?? 0,
    vcpuBlockedMs: roundMs(feeder?.faults.totalMs ?? 0),
  };
}
