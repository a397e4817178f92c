import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  mapMainMemory,
  opensMemoryReadOnly,
  withoutMappedMemory,
  type MappedMemory,
} from '../../../src/qemu/mapped-memory.js';
import { untrustedOptions } from '../../../src/qemu/trust.js';

const memory: MappedMemory = {
  file: '/store/web/3/raw-memory',
  block: 'pc.ram',
  sizeBytes: 64 << 20,
  readOnly: false,
};
const BACKEND = `memory-backend-file,id=pc.ram,size=${64 << 20},mem-path=/store/web/3/raw-memory,share=off`;
const PLAIN = ['-machine', 'q35', '-m', '64'];

describe('a command line whose main memory is mapped', () => {
  it('gets a back-end with the name of the RAM block, and a machine that uses it', () => {
    const added = ['-object', BACKEND, '-machine', 'memory-backend=pc.ram'];
    expect(mapMainMemory(PLAIN, memory)).toEqual([...PLAIN, ...added]);
  });

  it('opens the file for reading only where QEMU can', () => {
    expect(mapMainMemory(PLAIN, { ...memory, readOnly: true })).toContain(`${BACKEND},readonly=on,rom=off`);
    const versions = ['7.2.22', '8.1.0', '8.2.0', '9.0.0', '10.0.2 (Debian)', 'unknown'];
    expect(versions.map(opensMemoryReadOnly)).toEqual([false, false, true, true, true, false]);
  });

  it.each([
    ['of the machine', ['-machine', 'q35,memory-backend=ram0'], []],
    ['of its only NUMA node', ['-machine', 'q35'], ['-numa', 'node,nodeid=0,memdev=ram0']],
  ])('puts it in the place of a back-end %s', (_title, before, after) => {
    const given = [...before, '-object', 'memory-backend-ram,id=ram0,size=64M,prealloc=on', ...after];
    const expected = [...before, '-object', BACKEND.replace('pc.ram', 'ram0'), ...after];
    expect(mapMainMemory(given, { ...memory, block: 'ram0' })).toEqual(expected);
  });

  it('has nothing that would fill memory beforehand, or take it from elsewhere', () => {
    const args = mapMainMemory([...PLAIN, '-mem-prealloc', '-mem-path', '/dev/shm'], memory);
    expect(args.slice(0, PLAIN.length + 2)).toEqual([...PLAIN, '-object', BACKEND]);
    expect(args).not.toContain('-mem-path');
    expect(args).not.toContain('-mem-prealloc');
  });

  it('quotes a comma in the name of the file', () => {
    const args = mapMainMemory([], { ...memory, file: '/a,b/web/3/raw-memory' });
    expect(args[1]).toContain('mem-path=/a,,b/web/3/raw-memory,');
    expect(withoutMappedMemory(args)[1]).toBe(`memory-backend-ram,id=pc.ram,size=${64 << 20}`);
  });

  it.each([
    ['several NUMA nodes', ['-numa', 'node,memdev=a', '-numa', 'node,memdev=b'], /several pieces \(a, b\)/],
    ['another name', ['-machine', 'q35,memory-backend=other'], /"other", the checkpoint "pc.ram"/],
    ['shared memory', ['-object', 'memory-backend-ram,id=pc.ram,size=64M,share=on'], /share=on is shared/],
    [
      'a memfd, shared by default',
      ['-object', 'memory-backend-memfd,id=pc.ram,size=64M'],
      /memfd.* is shared/,
    ],
  ])('is refused with %s', (_title, argv, message) => {
    expect(() => mapMainMemory(argv, memory)).toThrow(message);
    expect(() => mapMainMemory(argv, memory)).toThrow(expect.objectContaining({ code: 'MAP_REFUSED' }));
  });

  it('is an ordinary one again for the next restore, and needs no trust', () => {
    const saved = mapMainMemory([...PLAIN, '-device', 'virtio-rng-pci'], { ...memory, readOnly: true });
    const again = withoutMappedMemory(saved);
    expect(again).toContain(`memory-backend-ram,id=pc.ram,size=${64 << 20}`);
    expect(again.join(' ')).not.toContain('raw-memory');
    expect(untrustedOptions(again)).toEqual([]);
    expect(untrustedOptions(saved)).not.toEqual([]);
  });

  it("leaves a user's own file alone", () => {
    for (const object of [
      'memory-backend-file,id=m,size=1G,mem-path=/dev/shm/vm,share=on',
      'memory-backend-file,id=m,size=1G,mem-path=/store/web/3/raw-memory,share=on',
      'memory-backend-file,id=m,size=1G,mem-path=/home/raw-memory',
    ])
      expect(withoutMappedMemory(['-object', object])).toEqual(['-object', object]);
  });

  it('can be mapped from one generation after the other', () => {
    const option = fc.constantFrom(
      '-nodefaults',
      '-device virtio-balloon-pci',
      '-m 64M',
      '-M q35',
      '-mem-prealloc',
    );
    const argv = fc.array(option).map((options) => options.flatMap((text) => text.split(' ')));
    fc.assert(
      fc.property(argv, fc.integer({ min: 1, max: 99 }), (words, generation) => {
        const file = `/store/web/${generation}/raw-memory`;
        const first = mapMainMemory(words, memory);
        const second = mapMainMemory(withoutMappedMemory(first), { ...memory, file });
        expect(second).toEqual(mapMainMemory(words, { ...memory, file }));
        expect(withoutMappedMemory(withoutMappedMemory(second))).toEqual(withoutMappedMemory(first));
      }),
    );
  });
});
