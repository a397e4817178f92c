/**
 * A new generation of a machine starts with what restores of the previous one have taught. Most of the guest's pages
 * stay where they are, but units are cut differently (units.ts). The units with the largest share of pages in the
 * former set are inherited, up to as many pages as that set had, so that a set does not grow from generation to
 * generation.
 */
import { AdaptiveHistogram, type HeatEntry } from './histogram.js';
import type { InstallUnits } from './units.js';
import { newWorkingSet, type WorkingSet } from './working-set.js';

export interface FormerWorkingSet {
  readonly workingSet: WorkingSet;
  readonly units: InstallUnits;
}

interface Heir {
  readonly leader: number;
  /** How many of its pages are in the former set. */
  readonly knownPages: number;
  /** The sum of these pages' heat, by bin. */
  readonly bins: readonly [number, number, number];
}

/** For a generation with `units` and the same number of pages. @throws what the units throw */
export function inheritWorkingSet(former: FormerWorkingSet, units: InstallUnits): WorkingSet {
  const members = former.workingSet.histogram.entries.filter(({ isMember }) => isMember);
  let budgetPages = 0;
  const heirs = new Map<number, Heir>();
  for (const entry of members)
    for (const page of former.units.membersOf(entry.leader)) {
      budgetPages++;
      const leader = units.leaderOf(page);
      heirs.set(leader, withPage(heirs.get(leader) ?? { leader, knownPages: 0, bins: [0, 0, 0] }, entry));
    }
  const byShare = [...heirs.values()]
    .map((heir) => ({ heir, unitPages: units.membersOf(heir.leader).length }))
    .sort((a, b) => b.heir.knownPages / b.unitPages - a.heir.knownPages / a.unitPages);
  const entries = byShare
    .filter(({ unitPages }) => (budgetPages -= unitPages) >= 0)
    .map(({ heir }) => memberOf(heir))
    .sort((a, b) => a.leader - b.leader);
  return { ...newWorkingSet(units.pageCount), histogram: new AdaptiveHistogram(entries) };
}

function withPage({ leader, knownPages, bins }: Heir, entry: HeatEntry): Heir {
  const [early, soon, late] = entry.bins;
  return { leader, knownPages: knownPages + 1, bins: [bins[0] + early, bins[1] + soon, bins[2] + late] };
}

/** Has the mean heat of its known pages. */
function memberOf({ leader, knownPages, bins }: Heir): HeatEntry {
  const [early, soon, late] = bins;
  const mean = (heat: number) => Math.floor(heat / knownPages);
  return { leader, bins: [mean(early), mean(soon), mean(late)], isMember: true };
}
