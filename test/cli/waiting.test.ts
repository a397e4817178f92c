/** What `ps` says of a VM whose source does not have all of its memory yet. */
import { PassThrough } from 'node:stream';
import { beforeAll, expect, it, onTestFinished } from 'vitest';
import { FileExtents } from '../../src/checkpoint/file-extents.js';
import { countTransfer } from '../../src/serving/counters.js';
import { TransferStatus } from '../../src/serving/status.js';
import { Channel } from '../../src/transfer/channel.js';
import { PageFeeder } from '../../src/transfer/page-feeder.js';
import { identifyProcess } from '../../src/util/process-identity.js';
import { VmFolder } from '../../src/vms/folder.js';
import { cliSuite } from '../support/cli.js';
import { SlowExtents } from '../support/slow-extents.js';
import { smallCheckpoint } from '../unit/checkpoint/small-checkpoint.js';

const PAGE = 101;
const AHEAD_BYTES = 64 << 20;

const { run, runtimeDir } = cliSuite();
beforeAll(() => {
  process.env['VMCKPT_RUNTIME_DIR'] = runtimeDir;
});

it('waits for its source for as long as a page that it asks for is not there', async () => {
  const { dir, reader } = await smallCheckpoint(1);
  const files = new FileExtents(reader);
  onTestFinished(async () => {
    await files.close();
    reader.close();
  });
  const extents = new SlowExtents(files);
  const channel = new Channel(new PassThrough({ highWaterMark: AHEAD_BYTES }), reader.layout);
  const feeder = new PageFeeder({
    catalog: reader,
    extents,
    demand: channel,
    background: channel,
    backgroundAheadBytes: AHEAD_BYTES,
  });
  const folder = new VmFolder('web');
  folder.create();
  const self = identifyProcess(process.pid)!;
  folder.write({
    name: 'web',
    generation: 1,
    generationDir: dir,
    mode: 'lazy',
    version: 2,
    ramBytes: reader.manifest.sizes.ramBytes,
    restoredAt: '2026-01-02T03:04:05.678Z',
    verb: self,
    qemu: self,
    qmpSocket: folder.file('qmp.sock'),
  });
  const status = new TransferStatus(folder, {
    counters: () => countTransfer({ feeder, direct: undefined, filledPages: 0, sentBytes: 0 }),
    waitsForSource: () => feeder.starvation.isStarving,
  });
  const ps = async () => {
    status.write('serving');
    const { json } = await run(['--json', 'ps']);
    return [
      (json as { vms: { waitsForSource: boolean }[] }).vms[0]?.waitsForSource,
      (await run(['ps'])).stdout,
    ];
  };

  expect(await ps()).toEqual([false, expect.stringMatching(/ serving +\d/)]);
  extents.withhold(reader.extentOf(PAGE));
  const answered = feeder.answer(PAGE, 1, new AbortController().signal);
  expect(await ps()).toEqual([true, expect.stringContaining(' serving, waiting for its source ')]);
  const starvedMs = () => folder.readTransfer()!.counters!['starvedMs']!;
  const before = starvedMs();
  expect(await ps()).toEqual([true, expect.anything()]);
  expect(starvedMs()).toBeGreaterThan(before);

  extents.deliver(reader.extentOf(PAGE));
  await answered;
  expect(await ps()).toEqual([false, expect.stringMatching(/ serving +\d/)]);
  const inAll = starvedMs();
  await ps();
  expect([starvedMs(), inAll > before]).toEqual([inAll, true]);
});
