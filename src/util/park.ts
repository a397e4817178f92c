/**
 * Named points at which a process of ours waits when VMCKPT_PARK names them (`background,taking-over`), so that a test schedules a race instead of
 * hoping for it. The process says on stderr that it has come there, and goes on when it gets SIGCONT: once, each time it
 * is started.
 */
import { once } from 'node:events';

/**
 * A serving process: `opened`: the verb has been told that the checkpoint is open, the order is not taken. `loading`: the
 * order is taken, nothing is sent to QEMU. `background`: the VM runs and its faults are served; nothing is put in place yet
 * that it does not ask for. `taking-over`: a successor has opened the checkpoint. `complete`: all memory is in place, and
 * the verb does not know.
 * A save: `streaming`: some memory of the VM has come. `committing`: all of it is stored, without a number.
 */
export type ParkingPoint =
  'opened' | 'loading' | 'background' | 'taking-over' | 'complete' | 'streaming' | 'committing';

const wanted = new Set(process.env['VMCKPT_PARK']?.split(','));

/** @param after what the point lies behind, where the process itself does not wait for it */
export async function parkAt(point: ParkingPoint, after?: Promise<unknown>): Promise<void> {
  if (!wanted.delete(point)) return;
  await after;
  const released = once(process, 'SIGCONT');
  // A process that waits for a signal alone would end.
  const stays = setInterval(() => undefined, 1 << 30);
  process.stderr.write(`process ${process.pid} is parked at ${point}\n`);
  await released;
  clearInterval(stays);
}
