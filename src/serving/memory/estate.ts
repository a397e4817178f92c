/** What a serving process deposits with its keeper (native/core/keeper.h), and finds there as a successor. */
import { closeSync } from 'node:fs';
import { sendFds } from '../../native/index.js';
import { HELD, KEEPER_FD } from '../../serving-protocol/descriptors.js';

type HeldSlot = keyof typeof HELD;

export type Estate = Readonly<Partial<Record<HeldSlot, number>>>;

/** Descriptors by slot. Empty for a process without a predecessor or without a keeper. */
export function inherited(): Estate {
  const pairs = (process.env['VMCKPT_HELD'] ?? '').split(',').filter((pair) => pair !== '');
  const bySlot = new Map(pairs.map((pair) => pair.split('=').map(Number) as [number, number]));
  const slots = Object.entries(HELD) as [HeldSlot, number][];
  return Object.fromEntries(
    slots.flatMap(([name, slot]) => (bySlot.has(slot) ? [[name, bySlot.get(slot)!]] : [])),
  );
}

/** Deposits duplicates with the keeper, in this order. Without a keeper, does nothing. */
export function bequeath(descriptors: readonly (readonly [HeldSlot, number])[]): void {
  for (const [name, fd] of descriptors) tellKeeper(name, [fd]);
}

/** Closes a descriptor in this process and in the keeper. */
export function giveUp(name: HeldSlot, fd: number): void {
  tellKeeper(name, []);
  closeSync(fd);
}

function tellKeeper(name: HeldSlot, fds: readonly number[]): void {
  if (process.env['VMCKPT_HELD'] === undefined) return;
  try {
    sendFds(KEEPER_FD, Buffer.of(HELD[name]), fds);
  } catch (error) {
    // A keeper that has died holds nothing any more.
    if (!['EPIPE', 'ECONNRESET'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
  }
}
