import { expect, it } from 'vitest';
import { RATIOS } from '../../../src/bench/ratios.js';

it('holds restores against the goals that were set for them', () => {
  const goals = Object.entries(RATIOS).map(([name, { goal }]) => [name, goal]);
  expect(Object.fromEntries(goals)).toEqual({
    directRawCompleteVsFull: { atMost: 0.3 },
    directRawCompleteVsStream: { atMost: 0.5 },
    directZstdCompleteVsFull: { atMost: 0.6 },
    eagerRawVsMappedRam: { atMost: 1 },
    eagerZstdVsMappedRamCold: { atMost: 1 },
    client90LearnedColdVsMappedRamCold1GiB: { atMost: 0.7 },
    client90LearnedColdVsMappedRamCold4GiB: { atMost: 0.25 },
    resumeVsPrivateMap: { atMost: 1.5 },
    resume4GiBVs1GiB: { atMost: 1.15 },
    bulkVsBareUffdCopy: { atLeast: 0.8 },
    faultP50RawUs: { atMost: 10 },
    faultP50ZstdUs: { atMost: 60 },
    faultP99LoadedVsIdle: { atMost: 5 },
    learnedDemandFaultShare: { atMost: 0.05 },
    vcpuBlockedLearnedColdVsLazyCold: { atMost: 0.1 },
    prefetchWasteShare: { atMost: 0.25 },
    client90LearnedColdVsLazyCold: { atMost: 0.5 },
    client90LearnedColdVsPrivateMapWarm: { atMost: 1.2 },
    maxRssBytes: { atMost: 150e6 },
  });
});
