/** What every WriteTracker has to pass, tried on a process that is written to as QEMU's memory is. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { PageRuns, TrackerOptions, WriteTracker } from '../../src/capture/tracker.js';
import { PAGE_BYTES } from '../../src/pages/layout.js';
import { killAtExit } from '../support/processes.js';

const HUGE_PAGES = 512;
/** More than one scan tells of, where every other page is written. */
const PAGES = 8192;
/** 1 GiB: more than one thread scans. */
const LARGE_PAGES = 1 << 18;

export type WrittenMemory = 'small' | 'huge' | 'file';

export interface Written {
  readonly pid: number;
  readonly options: TrackerOptions;
  /** One of the commands of written-process.c. */
  does(command: string): Promise<void>;
  /** All of its memory, read from outside. */
  bytes(): Buffer;
}

export interface SubjectTracker {
  readonly memory: WrittenMemory;
  readonly open: (options: TrackerOptions) => Promise<WriteTracker>;
  /** Tells of the pages that were written, and no others: where it is so. */
  readonly isExact: boolean;
}

export function describeWriteTracker(name: string, { memory, open, isExact }: SubjectTracker): void {
  const directory = mkdtempSync(path.join(os.tmpdir(), 'vmckpt-tracker-'));
  const program = path.join(directory, 'written-process');
  const file = path.join(directory, 'file');

  async function tracked({ pageCount = PAGES } = {}) {
    const written = await startWritten(program, memory, { file, pageCount });
    // Some memory that was never touched, some that was.
    await written.does(`write 0 ${PAGES / 2} 1 7`);
    const tracker = await open(written.options);
    onTestFinished(() => tracker.close());
    tracker.arm();
    return { written, tracker };
  }

  function expectTold(runs: PageRuns, pages: readonly number[]): void {
    const told = pagesIn(runs);
    const wanted = new Set(pages);
    expect([...wanted].filter((page) => !told.has(page))).toEqual([]);
    if (isExact) expect([...told].filter((page) => !wanted.has(page))).toEqual([]);
  }

  describe(name, () => {
    beforeAll(() => {
      const source = path.join(import.meta.dirname, 'written-process.c');
      execFileSync('cc', ['-O1', '-Wall', '-Werror', '-pthread', '-o', program, source]);
      writeFileSync(file, Buffer.alloc(PAGES * PAGE_BYTES, 'a private mapping '));
    });
    afterAll(() => rmSync(directory, { recursive: true }));

    it('tells of nothing that was written before', async () => {
      const { tracker } = await tracked();
      expectTold(tracker.look(), []);
      expectTold(tracker.take(), []);
    });

    it('tells of every write until it is taken, and of none twice', async () => {
      const { written, tracker } = await tracked();
      await written.does('write 1000 3 2 9');
      for (let i = 0; i < 3; i++) expectTold(tracker.look(), [1000, 1002, 1004]);
      await written.does('write 1002 1 1 9');
      await written.does('write 5000 1 1 9');
      expectTold(tracker.look(), [1000, 1002, 1004, 5000]);
      expectTold(tracker.take(), [1000, 1002, 1004, 5000]);
      expectTold(tracker.look(), []);
      await written.does('write 1002 1 1 9');
      expectTold(tracker.take(), [1002]);
      expectTold(tracker.take(), []);
    });

    it('tells in ascending runs that do not touch, of however many pages', async () => {
      const { written, tracker } = await tracked();
      await written.does(`write 0 ${PAGES / 2} 2 9`);
      const runs = tracker.take();
      for (let at = 2; at < runs.length; at += 2)
        expect(runs[at]).toBeGreaterThan(runs[at - 2]! + runs[at - 1]!);
      expectTold(runs, everySecond());
      expectTold(tracker.take(), []);
    });

    it.each([512, 513, 600, 1024, 1025, 1500, 1536, 2048])(
      'tells of %i runs in order, again and again',
      async (count) => {
        const { written, tracker } = await tracked();
        await written.does(`write 0 ${count} 4 9`);
        for (const runs of [tracker.look(), tracker.look(), tracker.take()]) {
          expectTold(
            runs,
            Array.from({ length: count }, (_, at) => 4 * at),
          );
          if (isExact) expect(runs.length).toBe(2 * count);
        }
        expectTold(tracker.look(), []);
      },
    );

    it('tells of a part of memory, and of writes only', async () => {
      const { written, tracker } = await tracked();
      await written.does('write 1000 3 2 9');
      expectTold(tracker.look({ firstPage: 1001, pageCount: 3 }), [1002]);
      expectTold(tracker.look({ firstPage: 1005, pageCount: PAGES }), []);
      expectTold(tracker.lookForWrites(), [1000, 1002, 1004]);
      expectTold(tracker.take(), [1000, 1002, 1004]);
      expectTold(tracker.lookForWrites(), []);
    });

    it('tells of all of a large memory', async () => {
      if (memory !== 'small') return; // huge pages would fill the host's
      const { written, tracker } = await tracked({ pageCount: LARGE_PAGES });
      const step = LARGE_PAGES / 1024;
      await written.does(`write 0 1024 ${step} 9`);
      await written.does(`discard ${PAGES - 8} 16`);
      const all = new Set([...Array.from({ length: 1024 }, (_, at) => step * at), ...range(PAGES - 8, 16)]);
      expectTold(tracker.look(), [...all]);
      expectTold(tracker.take(), [...all]);
      expectTold(tracker.take(), []);
    });

    it('tells of what the kernel writes for the process, and for others', async () => {
      const { written, tracker } = await tracked();
      await written.does('kernel 3 5');
      await written.does(`direct 100 2 ${file}`);
      await written.does(`direct 6000 1 ${file}`);
      expectTold(tracker.take(), [3, 100, 101, 6000]);
    });

    it('tells of memory that was given back, whether it is touched again or not', async () => {
      if (memory === 'file') return; // QEMU does not (memoryProblem)
      const { written, tracker } = await tracked();
      const given = range(HUGE_PAGES, 2 * HUGE_PAGES);
      await written.does(`discard ${given[0]!} ${given.length}`);
      await written.does(`discard ${3 * HUGE_PAGES} 1`);
      const all = [...given, 3 * HUGE_PAGES];
      expectTold(tracker.look(), all);
      await written.does(`read ${given[0]!} 3`);
      expectTold(tracker.take(), all);
      expectTold(tracker.take(), []);
      await written.does(`write ${given[0]!} 1 1 4`);
      expectTold(tracker.take(), [given[0]!]);
    });

    it('tells of memory that has taken the place of other, or refuses the capture', async () => {
      const { written, tracker } = await tracked();
      const pages = range(100, 108);
      await written.does(`replace ${pages[0]!} ${pages.length}`);
      for (const ask of [() => tracker.look(), () => tracker.take()]) {
        const told = toldOrRefused(ask);
        expect(told === undefined || pages.every((page) => told.has(page))).toBe(true);
      }
    });

    it('goes on when the process has a child', async () => {
      const { written, tracker } = await tracked();
      await written.does('fork');
      await written.does('write 70 1 1 9');
      const told = pagesIn(tracker.take());
      expect(told.has(70)).toBe(true);
    });

    it('makes one memory of what is read at every take, while a thread writes', async () => {
      const { written, tracker } = await tracked();
      const composed = written.bytes();
      for (let round = 1; round <= 10; round++) {
        await written.does(`race ${round}`);
        for (let i = 0; i < 3; i++) tracker.look();
        if (round % 3 === 0 && memory !== 'file')
          await written.does(`discard ${round * HUGE_PAGES} ${HUGE_PAGES}`);
        await written.does('rest');
        const now = written.bytes();
        for (const page of pagesIn(tracker.take()))
          now.copy(composed, page * PAGE_BYTES, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
        expect(Buffer.compare(composed, now), `round ${round}`).toBe(0);
      }
    });

    it('makes one memory of what is read after every take, if it may be called while a thread writes', async () => {
      const { written, tracker } = await tracked();
      if (!tracker.takesAtOnce) return;
      const composed = written.bytes();
      const takeInto = (): void => {
        const pages = pagesIn(tracker.take());
        const now = written.bytes();
        for (const page of pages)
          now.copy(composed, page * PAGE_BYTES, page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      };
      await written.does('race 1');
      for (let i = 0; i < 10; i++) takeInto();
      await written.does('rest');
      takeInto();
      expect(Buffer.compare(composed, written.bytes())).toBe(0);
    });

    it('leaves nothing in the process, which another one may track then', async () => {
      const { written, tracker } = await tracked();
      tracker.close();
      const again = await open(written.options);
      expect(again.kind).toBe(tracker.kind);
      again.arm();
      await written.does('write 11 1 1 9');
      expectTold(again.take(), [11]);
      again.close();
      await written.does('write 11 1 1 9');
    });
  });
}

function toldOrRefused(ask: () => PageRuns): Set<number> | undefined {
  try {
    return pagesIn(ask());
  } catch (error) {
    expect(error).toMatchObject({ code: 'CAPTURE_REFUSED' });
    return undefined;
  }
}

export function everySecond(): number[] {
  return Array.from({ length: PAGES / 2 }, (_, at) => 2 * at);
}

function range(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, at) => first + at);
}

export function pagesIn(runs: PageRuns): Set<number> {
  const pages = new Set<number>();
  for (let at = 0; at < runs.length; at += 2)
    for (let i = 0; i < runs[at + 1]!; i++) pages.add(runs[at]! + i);
  return pages;
}

/** Its process ends with the test. */
export async function startWritten(
  program: string,
  memory: WrittenMemory,
  { file = '', pageCount = PAGES } = {},
): Promise<Written> {
  const child = spawn(program, [memory, `${pageCount}`, file], { stdio: ['pipe', 'pipe', 'inherit'] });
  const pid = child.pid!;
  killAtExit(pid);
  const exited = once(child, 'exit');
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const address = Number((await lines.next()).value);
  return {
    pid,
    options: { pid, regions: [{ address, firstPage: 0, pageCount }] },
    does: async (command) => {
      child.stdin.write(`${command}\n`);
      expect((await lines.next()).value, command).toBe('done');
    },
    bytes: () => memoryOf(pid, address),
  };
}

function memoryOf(pid: number, address: number): Buffer {
  const bytes = Buffer.alloc(PAGES * PAGE_BYTES);
  const fd = openSync(`/proc/${pid}/mem`, 'r');
  try {
    for (let done = 0; done < bytes.length;)
      done += readSync(fd, bytes, done, bytes.length - done, address + done);
  } finally {
    closeSync(fd);
  }
  return bytes;
}
