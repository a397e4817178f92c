/**
 * A new generation of a machine starts with what restores of the previous one have taught. Most of the guest's pages
 * stay where they are, and most extents are the same: their units go on as they were. Where pages were stored anew,
 * units are cut differently (units.ts). Of those, the ones with the largest share of pages in the former set are
 * inherited, up to as many pages as that set had, so that a set does not grow from generation to generation.
 */
import { isDeepStrictEqual } from 'node:util';
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
    .map(({ heir }) => memberOf(heir));
  const inSet = new Set(entries.map(({ leader }) => leader));
  const others = former.workingSet.histogram.entries.filter(
    ({ leader, isMember }) => !isMember && !inSet.has(leader) && isSameUnit(leader, former.units, units),
  );
  const { touched, restoreCount } = former.workingSet;
  const histogram = new AdaptiveHistogram([...entries, ...others].sort((a, b) => a.leader - b.leader));
  return { ...newWorkingSet(units.pageCount), histogram, touched, restoreCount };
}

function isSameUnit(leader: number, former: InstallUnits, units: InstallUnits): boolean {
  const members = units.membersOf(leader);
  return members[0] === leader && isDeepStrictEqual(members, former.membersOf(leader));
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
