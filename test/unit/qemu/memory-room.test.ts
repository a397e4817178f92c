import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import {
  judgeRoom,
  limitsOf,
  requireRoom,
  type HostMemory,
  type MemoryNeed,
} from '../../../src/qemu/memory-room.js';
import { suiteDirectory } from '../../support/vitest.js';

const GIB = 2 ** 30;
const dir = suiteDirectory();
const host = (freeGib: number, more: Partial<HostMemory> = {}): HostMemory => ({
  limits: [
    { where: 'this host', freeBytes: 64 * GIB },
    { where: 'the control group /a', freeBytes: freeGib * GIB },
  ],
  totalBytes: 64 * GIB,
  overcommit: 'heuristic',
  commitFreeBytes: 4 * GIB,
  ...more,
});
const need = (more: Partial<MemoryNeed> = {}): MemoryNeed => ({
  vmCount: 1,
  dataBytes: 476 << 10,
  ramBytes: 20 * GIB,
  isMapped: false,
  args: [],
  cwd: '/',
  ...more,
});

it('judges by what the checkpoint holds, and tells when all of RAM would not fit', () => {
  expect(judgeRoom(need(), host(21))).toBeUndefined();
  expect(judgeRoom(need(), host(2))).toMatchObject({
    certain: false,
    message:
      'the VM needs up to 20544 MiB of memory once the guest uses all of its RAM, the control group /a has 2048 MiB free',
  });
  expect(judgeRoom(need({ dataBytes: 3 * GIB }), host(2))).toMatchObject({ certain: true });
  expect(judgeRoom(need({ vmCount: 40 }), host(2))).toMatchObject({
    certain: true,
    message: expect.stringMatching(/^40 VMs need 2578 MiB of memory, the control group/) as string,
  });
});

it.each([
  ['-mem-prealloc'],
  ['-overcommit', 'mem-lock=on'],
  ['-object', 'memory-backend-ram,id=m,size=20G,prealloc=on'],
])('counts all of RAM where QEMU fills it at once: %s', (...args) => {
  expect(judgeRoom(need({ args }), host(2))).toMatchObject({ certain: true });
});

it('knows what the kernel would not promise', () => {
  const strict = host(64, { overcommit: 'never' });
  expect(judgeRoom(need(), strict)).toMatchObject({
    certain: true,
    message: expect.stringContaining('vm.overcommit_memory is 2') as string,
  });
  expect(judgeRoom(need({ isMapped: true }), strict)).toMatchObject({ certain: true });
  const small = { totalBytes: 16 * GIB };
  expect(judgeRoom(need(), host(15, small))).toMatchObject({ certain: true });
  expect(judgeRoom(need(), host(15, { ...small, overcommit: 'always' }))).toMatchObject({ certain: false });
  const unreserved = ['-object', 'memory-backend-ram,id=m,size=20G,reserve=off'];
  expect(judgeRoom(need({ args: unreserved }), host(15, small))).toMatchObject({ certain: false });
});

it('takes nothing but what QEMU itself needs for mapped memory, and leaves huge pages to QEMU', () => {
  expect(judgeRoom(need({ isMapped: true, dataBytes: 19 * GIB }), host(1))).toBeUndefined();
  const args = ['-object', 'memory-backend-memfd,id=m,size=20G,hugetlb=on'];
  expect(judgeRoom(need({ args, dataBytes: 19 * GIB }), host(1))).toBeUndefined();
});

it('refuses what certainly does not fit, unless the user insists, and then says it', () => {
  const said: string[] = [];
  const onMessage = (text: string) => void said.push(text);
  const tooMuch = need({ dataBytes: 2 ** 52 });
  expect(() => requireRoom(tooMuch, 'required', onMessage)).toThrow(
    expect.objectContaining({ code: 'COLLISION', hint: expect.stringContaining('--force') as string }),
  );
  requireRoom(tooMuch, 'judged', onMessage);
  expect(said).toEqual([]);
  requireRoom(tooMuch, 'forced', onMessage);
  expect(said).toEqual([expect.stringMatching(/^The VM needs \d+ MiB of memory, .* free\.$/)]);
});

it.each([
  {
    version: 2,
    controllers: [],
    files: {
      'memory.max': 8 * GIB,
      'memory.current': 7 * GIB,
      'memory.swap.max': 0,
      'memory.swap.current': 0,
    },
    stat: `anon ${2 * GIB}\nfile ${5 * GIB}\ninactive_anon 0\ninactive_file ${GIB}\nactive_file ${4 * GIB}\n`,
  },
  {
    version: 1,
    controllers: ['memory'],
    files: { 'memory.limit_in_bytes': 8 * GIB, 'memory.usage_in_bytes': 7 * GIB },
    stat: `inactive_file 1\ntotal_inactive_file ${GIB}\ntotal_active_file ${4 * GIB}\n`,
  },
])(
  'takes what a control group has in the page cache for free, read lately or not: version $version',
  (group) => {
    const { version, controllers, files, stat } = group;
    const mountPoint = path.join(dir, `v${version}`);
    const folder = path.join(mountPoint, 'a');
    mkdirSync(folder, { recursive: true });
    for (const [file, bytes] of Object.entries(files)) writeFileSync(path.join(folder, file), `${bytes}\n`);
    writeFileSync(path.join(folder, 'memory.stat'), stat);
    const roomOn = (totalBytes: number) =>
      limitsOf({ controllers, path: '/a', mountPoint, folder }, { swapFreeBytes: 0, totalBytes });
    expect(roomOn(64 * GIB)).toEqual([{ where: 'the control group /a', freeBytes: 6 * GIB }]);
    expect(roomOn(4 * GIB), 'a limit above all that the host has').toEqual([]);
  },
);
