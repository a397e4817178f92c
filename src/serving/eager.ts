/** All memory before the VM runs: written into QEMU where possible, the rest in the stream with the devices. */
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { damageIn } from '../checkpoint/native-image.js';
import { VmckptError } from '../errors.js';
import { MemoryFill } from '../native/index.js';
import type { PlacedRamBlock } from '../pages/layout.js';
import { sendWholeMachine } from '../transfer/whole-machine.js';
import { connectTo } from '../qemu/migration-socket.js';
import { careFor, placedIn, untilCompleted, type LoadingMachine, type TransferContext } from './context.js';
import { countTransfer } from './counters.js';
import type { TransferCounters } from '../serving-protocol/counters.js';
import type { ServingOrder } from '../serving-protocol/order.js';
import { log } from './log.js';
import type { DirectlyFilled } from '../serving-protocol/order.js';

/** More threads would only wait for memory. */
const MAX_FILL_THREADS = 8;

export class EagerTransfer {
  readonly #context: TransferContext;
  readonly #machine: LoadingMachine;
  /** Writes directly into QEMU's memory. */
  #fill: MemoryFill | undefined;
  #sent: Awaited<ReturnType<typeof sendWholeMachine>> | undefined;

  constructor(context: TransferContext, machine: LoadingMachine) {
    this.#context = context;
    this.#machine = machine;
  }

  /** Returns when the VM has all of its memory, and runs if it is meant to. */
  async run({ memory, runs, aftercare }: ServingOrder): Promise<void> {
    const { folder, reader, extents, status } = this.#context;
    const { state, monitor } = this.#machine;
    const filled = memory === undefined ? [] : await this.#fillMemory(memory);
    const socket = connectTo(folder.file('migration.sock'), { readable: true });
    const broken = once(socket, 'error').then(([cause]) => {
      throw new VmckptError(
        'TRANSFER_FAILED',
        'QEMU closed the migration connection while it was being loaded',
        { cause },
      );
    });
    const signal = new AbortController().signal;
    const sent = sendWholeMachine({ catalog: reader, extents, out: socket, state, filled, signal });
    this.#sent = await Promise.race([sent, broken]);
    // The verb does the same, unless it has died in the meantime.
    if (runs) {
      await untilCompleted(monitor);
      await monitor.execute('cont');
    }
    status.loaded = true;
    await careFor(this.#context, aftercare);
  }

  /** Whether it does not go on before its source has more. */
  get waitsForSource(): boolean {
    return this.#fill?.waitsForSource ?? false;
  }

  counters(): TransferCounters {
    return countTransfer({
      feeder: this.#sent?.feeder,
      direct: undefined,
      filledPages: this.#fill?.pageCount ?? 0,
      sentBytes: this.#sent?.sentBytes ?? 0,
    });
  }

  /** Returns the blocks that were filled; none if this process may not write into QEMU. */
  async #fillMemory(memory: DirectlyFilled): Promise<PlacedRamBlock[]> {
    const { reader, image } = this.#context;
    const blocks = placedIn(reader, memory);
    this.#fill = new MemoryFill({
      image: image(),
      pid: memory.pid,
      regions: blocks.map(({ block: { firstPage, pageCount }, hostAddress }) => ({
        address: hostAddress,
        firstPage,
        pageCount,
      })),
      threads: Math.min(availableParallelism(), MAX_FILL_THREADS),
    });
    try {
      await this.#fill.run();
      return blocks.map(({ block }) => block);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPERM') throw damageIn(error) ?? error;
      this.#fill = undefined;
      await log('info', { err: error }, 'no right to write into QEMU: its memory goes through the stream');
      return [];
    }
  }
}
