/**
 * Named points at which a process waits if VMCKPT_PARK names them (`background,taking-over`), so that a test
 * schedules a race instead of hoping for it. The process reports on stderr that it has reached the point, and
 * continues when it gets SIGCONT. It waits once at each point.
 */
import { once } from 'node:events';

/**
 * In a serving process: `opened`: the verb knows that the checkpoint is open; the order is not read yet. `loading`:
 * the order is read; nothing was sent to QEMU. `background`: the VM runs and its faults are served; no other page is
 * installed yet. `taking-over`: a successor has opened the checkpoint. `complete`: all memory is in place, and the
 * verb does not know. In a restore that maps memory: `loading`: QEMU answers; nothing was sent to it. In a save:
 * `streaming`: a part of the VM's memory has arrived. `tracked`: a capture has taken over the tracking that a save before it has
 * begun. `paused`: a capture has paused the VM. `committing`: all of it is stored, without a number. `keeping`: it has
 * its number; the tracking does not know yet. While a raw memory file is written: `materializing`: a part of it is there.
 * Native programs have points of their own (native/core/park.h, test/support/traced.ts).
 */
export type ParkingPoint =
  | 'opened'
  | 'loading'
  | 'background'
  | 'taking-over'
  | 'complete'
  | 'streaming'
  | 'tracked'
  | 'paused'
  | 'committing'
  | 'keeping'
  | 'materializing';

const wanted = new Set(process.env['VMCKPT_PARK']?.split(','));

/** @param after what must have happened before the point, if the process itself does not wait for it */
export async function parkAt(point: ParkingPoint, after?: Promise<unknown>): Promise<void> {
  if (!wanted.delete(point)) return;
  await after;
  const released = once(process, 'SIGCONT');
  // Without a timer, a process that waits only for a signal would end.
  const stays = setInterval(() => undefined, 1 << 30);
  process.stderr.write(`process ${process.pid} is parked at ${point}\n`);
  await released;
  clearInterval(stays);
}
