/** A read that fails does so by name, and once: what else is under way then fails unheard. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { PageReader } from '../../../src/capture/page-reader.js';
import { MAX_BURST_BYTES, type PageSink } from '../../../src/pages/contracts.js';
import { PAGE_BYTES } from '../../../src/pages/layout.js';
import { startWritten, type Written } from '../../contracts/write-tracker.js';
import { suiteDirectory } from '../../support/vitest.js';

const SOURCE = path.join(import.meta.dirname, '../../contracts/written-process.c');
/** Read at once. */
const STRETCH = MAX_BURST_BYTES / PAGE_BYTES;
/** More than are read ahead. */
const PAGES = 16 * STRETCH;

const program = path.join(suiteDirectory(), 'written-process');
beforeAll(() => {
  execFileSync('cc', ['-O1', '-Wall', '-Werror', '-pthread', '-o', program, SOURCE]);
});

const SINK: Omit<PageSink, 'ready'> = { fill: () => undefined, data: () => undefined };

/** Of a process that has all of its pages. */
async function startReader() {
  const written = await startWritten(program, 'small');
  await written.does(`write 0 ${PAGES} 1 7`);
  const hostAddress = written.options.regions[0]!.address;
  const reader = new PageReader(written.pid, [{ name: 'ram', usedBytes: PAGES * PAGE_BYTES, hostAddress }]);
  onTestFinished(() => reader.close());
  return { written, reader, unheard: unheardRejections() };
}

/** Those that nobody has handled, until the test ends. */
function unheardRejections(): unknown[] {
  const unheard: unknown[] = [];
  const note = (reason: unknown): void => void unheard.push(reason);
  process.on('unhandledRejection', note);
  onTestFinished(() => void process.off('unhandledRejection', note));
  return unheard;
}

function read(reader: PageReader, options: { onRead?: () => void; ready?: () => Promise<void> } = {}) {
  const { onRead = () => undefined, ready = async () => undefined } = options;
  const { signal } = new AbortController();
  return reader.read(reader.allPages, { sink: { ...SINK, ready }, onRead, signal });
}

/** What the threads were asked before has been answered, and a failure that nobody handles would have been told. */
async function untilAnswered(reader: PageReader): Promise<void> {
  const asked = Array.from({ length: 8 }, () => reader.keep(Uint32Array.of(0, 1)));
  await Promise.all(asked);
  await turn();
}

/** Returns when its memory is gone; it is a zombie until this process has an idle moment. */
function killNow({ pid }: Written): void {
  process.kill(pid, 'SIGKILL');
  while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'latin1')));
}

describe('a process whose memory is read', () => {
  test('has lost it: the capture is refused', async () => {
    const { written, reader, unheard } = await startReader();
    await written.does(`forbid ${STRETCH} ${PAGES - STRETCH}`);
    // All that is read beside the first stretch fails while that is stored.
    const reading = read(reader, { ready: () => untilAnswered(reader) });
    await expect(reading).rejects.toMatchObject({ code: 'CAPTURE_REFUSED' });
    await expect(reader.keep(reader.allPages)).rejects.toMatchObject({ code: 'CAPTURE_REFUSED' });
    await reader.close();
    expect(unheard).toEqual([]);
  });

  test('has ended: the read says so', async () => {
    const { written, reader, unheard } = await startReader();
    let isKilled = false;
    const onRead = (): void => {
      if (!isKilled) killNow(written);
      isKilled = true;
    };
    await expect(read(reader, { onRead })).rejects.toMatchObject({ code: 'QEMU_DIED' });
    await expect(reader.keep(reader.allPages)).rejects.toMatchObject({ code: 'QEMU_DIED' });
    await reader.close();
    expect(unheard).toEqual([]);
  });

  test('is not at fault where the sink fails: its error is told', async () => {
    const { written, reader, unheard } = await startReader();
    await written.does(`forbid ${STRETCH} ${PAGES - STRETCH}`);
    const full = new Error('the disk is full');
    const ready = async (): Promise<void> => {
      await untilAnswered(reader);
      throw full;
    };
    await expect(read(reader, { ready })).rejects.toBe(full);
    await reader.close();
    expect(unheard).toEqual([]);
  });
});
