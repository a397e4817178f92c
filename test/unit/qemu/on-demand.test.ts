import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { usesHugePages } from '../../../src/qemu/memory-files.js';
import { refuseOnDemand } from '../../../src/qemu/on-demand.js';
import { suiteDirectory } from '../../support/vitest.js';

const REFUSED = { code: 'COMMAND_LINE_UNSUPPORTED', hint: expect.stringContaining('--mode eager') as string };

describe('usesHugePages', () => {
  it('finds memfds of huge pages, and nothing in ordinary memory', () => {
    const memfd = (properties: string) => ['-object', `memory-backend-memfd,id=m,size=2M${properties}`];
    expect(usesHugePages(memfd(',hugetlb=on,hugetlbsize=2M'), '/')).toBe(true);
    expect(usesHugePages(memfd(',hugetlb=off'), '/')).toBe(false);
    expect(usesHugePages(['-mem-path', '/dev/shm', '-m', '1G'], '/')).toBe(false);
  });
});

describe('refuseOnDemand', () => {
  const disk = suiteDirectory();
  const shm = mkdtempSync('/dev/shm/vmckpt-');
  afterAll(() => rmSync(shm, { recursive: true }));

  const attempt = (properties: string) => () =>
    refuseOnDemand(['-object', `memory-backend-file,id=m,size=1M,${properties}`], shm);

  it('leaves alone what is not in a file, and files that can wait and are the VM’s own', () => {
    for (const args of [
      ['-m', '1G', '-mem-path', shm],
      ['-object', 'memory-backend-memfd,id=m,size=1M,share=on'],
    ])
      expect(() => refuseOnDemand(args, '/')).not.toThrow();
    writeFileSync(path.join(shm, 'mine'), 'data');
    expect(attempt('mem-path=mine,share=on')).not.toThrow();
    expect(attempt('mem-path=yet-to-come')).not.toThrow();
    writeFileSync(path.join(shm, 'hole'), '');
    truncateSync(path.join(shm, 'hole'), 1 << 20);
    expect(attempt('mem-path=hole')).not.toThrow();
  });

  it('refuses a file with data that the VM only reads', () => {
    writeFileSync(path.join(shm, 'template'), 'data');
    expect(attempt('mem-path=template')).toThrow(expect.objectContaining(REFUSED));
    expect(() => refuseOnDemand(['-mem-path', 'template'], shm)).toThrow(/would empty the file/);
    expect(attempt('mem-path=template,share=off')).toThrow(
      /mem-path=template,share=off: a lazy restore would empty/,
    );
  });

  it('refuses files on a disk, also those that QEMU is yet to make, and vhost-user', () => {
    expect(attempt(`mem-path=${disk}/yet-to-come,share=on`)).toThrow(expect.objectContaining(REFUSED));
    expect(() => refuseOnDemand(['-mem-path', disk], '/')).toThrow(/only on tmpfs and hugetlbfs/);
    for (const args of [
      ['-netdev', 'vhost-user,id=n,chardev=c'],
      ['-device', '{"driver":"vhost-user-fs-pci","chardev":"c"}'],
    ])
      expect(() => refuseOnDemand(args, '/')).toThrow(/vhost-user/);
    expect(() => refuseOnDemand(['-name', 'vhost-user', '-append', 'x=vhost-user'], '/')).not.toThrow();
  });
});
