/**
 * Named points at which a process of ours waits when VMCKPT_PARK names one, so that a test schedules a race instead of
 * hoping for it. The process says on stderr that it has come there, and goes on when it gets SIGCONT.
 */
import { once } from 'node:events';

/** `background`: the VM runs and its faults are served; nothing is put in place yet that it does not ask for. */
type ParkingPoint = 'background';

/** @param after what the point lies behind, where the process itself does not wait for it */
export async function parkAt(point: ParkingPoint, after?: Promise<unknown>): Promise<void> {
  if (process.env['VMCKPT_PARK'] !== point) return;
  await after;
  const released = once(process, 'SIGCONT');
  process.stderr.write(`parked at ${point}\n`);
  await released;
}
