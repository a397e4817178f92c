/**
 * Whether this host has enough memory for a VM. The checkpoint's data is certain to be needed, the rest of its RAM
 * only when the guest uses it. Both are estimates about a host that changes. A lack of the first is refused unless
 * the user insists; a lack of the second is reported.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { VmckptError } from '../errors.js';
import { controlGroupsOf, type ControlGroup } from '../util/control-groups.js';
import { isOn, parseCommandLine, propertyOf } from './command-line.js';
import { usesHugePages } from './memory-files.js';

/** What QEMU needs besides the guest's RAM. */
const OVERHEAD_BYTES = 64 << 20;

/** `required`: refused if it certainly does not fit. `forced`: the user insists. `judged`: already checked. */
export type RoomWish = 'required' | 'forced' | 'judged';

export interface MemoryNeed {
  readonly vmCount: number;
  /** Data in the checkpoint, for each VM. */
  readonly dataBytes: number;
  readonly ramBytes: number;
  /** The memory is a private mapping of a file, whose pages the host can reclaim. */
  readonly isMapped: boolean;
  readonly args: readonly string[];
  readonly cwd: string;
}

export interface HostMemory {
  /** The host, and every control group with a limit. Swap counts as free memory. */
  readonly limits: readonly { readonly where: string; readonly freeBytes: number }[];
  /** RAM and swap together. */
  readonly totalBytes: number;
  /** vm.overcommit_memory, proc_sys_vm(5). */
  readonly overcommit: 'heuristic' | 'always' | 'never';
  /** What the kernel can still commit to programs; matters when overcommit is `never`. */
  readonly commitFreeBytes: number;
}

export interface RoomJudgement {
  /** False: it fits as long as the guest uses little more than the checkpoint holds. */
  readonly certain: boolean;
  readonly message: string;
}

/** Undefined when everything fits. */
export function judgeRoom(need: MemoryNeed, host: HostMemory = readHostMemory()): RoomJudgement | undefined {
  const { vmCount, isMapped, args, cwd, ramBytes } = need;
  // QEMU itself reports a lack of huge pages.
  if (usesHugePages(args, cwd)) return undefined;
  const subject = vmCount === 1 ? 'the VM needs' : `${vmCount} VMs need`;
  const promisedBytes = vmCount * (ramBytes + OVERHEAD_BYTES);
  if (host.overcommit === 'never' && promisedBytes > host.commitFreeBytes)
    return {
      certain: true,
      message: `${subject} ${mebibytes(promisedBytes)} of memory, this host promises no more than ${mebibytes(host.commitFreeBytes)} (vm.overcommit_memory is 2)`,
    };
  if (host.overcommit === 'heuristic' && ramBytes > host.totalBytes && !isReservedNot(args))
    return {
      certain: true,
      message: `the VM has ${mebibytes(ramBytes)} of RAM, more than this host's RAM and swap together (${mebibytes(host.totalBytes)}), and vm.overcommit_memory is 0`,
    };
  const mayUse = isMapped ? 0 : ramBytes;
  const certain = isMapped ? 0 : isFilledAtOnce(args) ? ramBytes : need.dataBytes;
  const tightest = host.limits.reduce((least, limit) => (limit.freeBytes < least.freeBytes ? limit : least));
  const has = `${tightest.where} has ${mebibytes(tightest.freeBytes)} free`;
  const certainBytes = vmCount * (certain + OVERHEAD_BYTES);
  if (certainBytes > tightest.freeBytes)
    return { certain: true, message: `${subject} ${mebibytes(certainBytes)} of memory, ${has}` };
  const possibleBytes = vmCount * (mayUse + OVERHEAD_BYTES);
  if (possibleBytes > tightest.freeBytes)
    return {
      certain: false,
      message: `${subject} up to ${mebibytes(possibleBytes)} of memory once the guest uses all of its RAM, ${has}`,
    };
  return undefined;
}

/** @throws VmckptError COLLISION when the memory certainly does not fit and the user does not insist */
export function requireRoom(need: MemoryNeed, wish: RoomWish, onMessage: (text: string) => void): void {
  if (wish === 'judged') return;
  const judgement = judgeRoom(need);
  if (judgement === undefined) return;
  if (judgement.certain && wish === 'required')
    throw new VmckptError('COLLISION', judgement.message, {
      hint: 'End other programs, add swap, or raise the limit of the control group. --force restores it anyway.',
    });
  onMessage(`${judgement.message[0]!.toUpperCase()}${judgement.message.slice(1)}.`);
}

/** Whether all of RAM is touched before the VM runs. */
function isFilledAtOnce(args: readonly string[]): boolean {
  return parseCommandLine(args).some(
    (option) =>
      option.name === 'mem-prealloc' ||
      (option.name === 'overcommit' && isOn(propertyOf(option, 'mem-lock'))) ||
      (option.name === 'object' && isOn(propertyOf(option, 'prealloc'))),
  );
}

function isReservedNot(args: readonly string[]): boolean {
  return parseCommandLine(args).some((option) => propertyOf(option, 'reserve') === 'off');
}

function readHostMemory(): HostMemory {
  const info = readText('/proc/meminfo') ?? '';
  const bytes = (name: string) => {
    const kib = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(info)?.[1];
    return kib === undefined ? Infinity : Number(kib) * 1024;
  };
  const swapFreeBytes = bytes('SwapFree');
  const totalBytes = bytes('MemTotal') + bytes('SwapTotal');
  const mode = readText('/proc/sys/vm/overcommit_memory');
  return {
    limits: [
      { where: 'this host', freeBytes: bytes('MemAvailable') + swapFreeBytes },
      ...controlGroupsOf('self').flatMap((group) => limitsOf(group, { swapFreeBytes, totalBytes })),
    ],
    totalBytes,
    overcommit: mode === '1' ? 'always' : mode === '2' ? 'never' : 'heuristic',
    commitFreeBytes: bytes('CommitLimit') - bytes('Committed_AS'),
  };
}

/** The files of both versions, and the values that mean no limit. */
const VERSION_2 = {
  limit: 'memory.max',
  used: 'memory.current',
  swapLimit: 'memory.swap.max',
  swapUsed: 'memory.swap.current',
  cache: /^(?:in)?active_file (\d+)$/gm,
};
const VERSION_1 = {
  limit: 'memory.limit_in_bytes',
  used: 'memory.usage_in_bytes',
  // Limits memory and swap together, so swap is not counted separately.
  swapLimit: 'memory.memsw.limit_in_bytes',
  swapUsed: 'memory.memsw.usage_in_bytes',
  cache: /^total_(?:in)?active_file (\d+)$/gm,
};

/**
 * The limits from a group up to the root of its hierarchy. The whole page cache counts as free, as in MemAvailable: the
 * kernel drops it before it refuses memory, even if it was read recently. Writing or reading checkpoints fills it.
 */
export function limitsOf(
  own: ControlGroup,
  { swapFreeBytes, totalBytes }: { readonly swapFreeBytes: number; readonly totalBytes: number },
): HostMemory['limits'][number][] {
  const isVersion2 = own.controllers.length === 0;
  if (!isVersion2 && !own.controllers.includes('memory')) return [];
  const files = isVersion2 ? VERSION_2 : VERSION_1;
  const limits: HostMemory['limits'][number][] = [];
  for (let { folder, path: group } = own; ; folder = path.dirname(folder), group = path.dirname(group)) {
    const number = (file: string) => Number(readText(path.join(folder, file)) ?? Number.NaN);
    const limitBytes = number(files.limit);
    // Without a limit below the host's total, only the host counts. Reading the group's statistics would take time.
    if (limitBytes < totalBytes) {
      const cacheBytes = sumOf(readText(path.join(folder, 'memory.stat')) ?? '', files.cache);
      const freeBytes = limitBytes - number(files.used) + cacheBytes;
      const swapBytes = number(files.swapLimit) - number(files.swapUsed);
      const roomBytes = isVersion2
        ? freeBytes + Math.min(swapFreeBytes, Number.isNaN(swapBytes) ? swapFreeBytes : swapBytes)
        : Math.min(freeBytes + swapFreeBytes, Number.isNaN(swapBytes) ? Infinity : swapBytes + cacheBytes);
      if (Number.isFinite(roomBytes))
        limits.push({ where: `the control group ${group}`, freeBytes: Math.max(0, roomBytes) });
    }
    if (folder === own.mountPoint || group === '/') return limits;
  }
}

/** @param pattern global; its group is a number */
function sumOf(text: string, pattern: RegExp): number {
  return Array.from(text.matchAll(pattern), ([, number]) => Number(number)).reduce(
    (sum, each) => sum + each,
    0,
  );
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / (1 << 20))} MiB`;
}

function readText(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return undefined;
  }
}
