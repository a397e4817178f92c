import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { VmckptError } from '../../../src/errors.js';
import { parseHandshake, type GuestRegion } from '../../../src/uffd/handshake.js';

const IMAGE_BYTES = 1 << 30;
const HUGE = 2 << 20;
const REGION = { base_host_virt_addr: 0x7f00_0000_0000, size: 1 << 20, offset: 0 };

const parse = (value: unknown, imageBytes = IMAGE_BYTES) =>
  parseHandshake(Buffer.from(JSON.stringify(value)), imageBytes);

const wire = ({ address, bytes, offset, pageBytes }: GuestRegion) => ({
  base_host_virt_addr: address,
  size: bytes,
  offset,
  page_size: pageBytes,
  page_size_kib: pageBytes,
});

/** Regions side by side in the image, apart from each other in memory, in any order. */
const layouts = fc
  .array(fc.record({ pages: fc.integer({ min: 1, max: 8 }), huge: fc.boolean() }), {
    minLength: 1,
    maxLength: 64,
  })
  .chain((parts) => {
    let offset = 0;
    const regions = parts.map(({ pages, huge }, index): GuestRegion => {
      const pageBytes = huge ? HUGE : 4096;
      const region = { address: (index + 1) * 2 ** 36, bytes: pages * pageBytes, offset, pageBytes };
      offset += region.bytes;
      return region;
    });
    return fc.shuffledSubarray(regions, { minLength: 1 });
  });

describe('parseHandshake', () => {
  it('reads every layout that is sound', () => {
    fc.assert(
      fc.property(layouts, (regions) => {
        expect(parse(regions.map(wire), 2 ** 40)).toEqual(regions);
      }),
    );
  });

  it('waits for the rest of a message that was cut anywhere', () => {
    fc.assert(
      fc.property(layouts, fc.nat(), (regions, cut) => {
        const message = Buffer.from(JSON.stringify(regions.map(wire)));
        expect(parseHandshake(message.subarray(0, cut % message.length), 2 ** 40)).toBeUndefined();
      }),
    );
  });

  it('gives regions inside their bounds, or an error of ours, whatever comes', () => {
    const odd = fc.oneof(
      fc.integer({ min: -4096, max: 2 ** 31 }),
      fc.constantFrom(
        0,
        4096,
        HUGE,
        2 ** 47,
        2 ** 47 - 4096,
        2 ** 63,
        2 ** 64,
        -1,
        0.5,
        1e300,
        null,
        '4096',
        {},
      ),
      fc.integer({ min: 0, max: 1 << 19 }).map((pages) => pages * 4096),
    );
    const region = fc.record(
      { base_host_virt_addr: odd, size: odd, offset: odd, page_size: odd, page_size_kib: odd },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.array(region),
          fc.json().map((text) => JSON.parse(text) as unknown),
        ),
        (message) => {
          let regions: GuestRegion[];
          try {
            regions = parse(message) ?? [];
          } catch (error) {
            expect(error).toBeInstanceOf(VmckptError);
            expect(error).toMatchObject({ code: 'HANDSHAKE_REFUSED' });
            return;
          }
          for (const { address, bytes, offset } of regions) {
            expect(address > 0 && bytes > 0 && address + bytes <= 2 ** 47).toBe(true);
            expect(offset >= 0 && offset + bytes <= IMAGE_BYTES).toBe(true);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });

  it.each([
    ['the field of old versions', { page_size_kib: HUGE, size: HUGE, base_host_virt_addr: HUGE }, HUGE],
    ['no field at all', {}, 4096],
  ])('knows the page size from %s', (_title, fields, pageBytes) => {
    expect(parse([{ ...REGION, ...fields }])).toMatchObject([{ pageBytes }]);
  });

  const next = { ...REGION, base_host_virt_addr: REGION.base_host_virt_addr + REGION.size };
  it.each([
    ['text', 'GET / HTTP/1.1', 'expected a JSON array'],
    ['broken JSON', '[{"base_host_virt_addr":]', 'expected JSON'],
    ['no region', [], 'expected an array of regions'],
    ['65 regions', Array.from({ length: 65 }, () => REGION), 'expected an array of regions'],
    ['a negative size', [{ ...REGION, size: -4096 }], '0.size'],
    ['a size of 0', [{ ...REGION, size: 0 }], '0.size'],
    ['a size that no integer holds', [{ ...REGION, size: 2 ** 64 }], '0.size'],
    ['a fraction', [{ ...REGION, offset: 0.5 }], '0.offset'],
    ['a missing field', [{ size: 4096, offset: 0 }], '0.base_host_virt_addr'],
    ['pages of another size', [{ ...REGION, page_size: 1 << 30 }], 'pages of 1073741824 bytes'],
    ['two page sizes', [{ ...REGION, page_size: HUGE, page_size_kib: 4096 }], 'expected the same value'],
    ['an unaligned size', [{ ...REGION, size: 4097 }], 'expected multiples of 4096'],
    [
      'an address that is not aligned to huge pages',
      [{ ...REGION, size: HUGE, base_host_virt_addr: 4096, page_size: HUGE }],
      'multiples of 2097152',
    ],
    ['an unaligned offset', [{ ...REGION, offset: 1 }], 'the offset 1'],
    [
      'an address of the kernel',
      [{ ...REGION, base_host_virt_addr: 2 ** 47 - 4096 }],
      'up to 0x800000000000',
    ],
    ['a region beyond the image', [{ ...REGION, offset: IMAGE_BYTES - 4096 }], 'the image has'],
    ['regions at the same addresses', [REGION, { ...REGION, offset: 1 << 20 }], 'same addresses'],
    ['regions with the same part of the image', [REGION, next], 'the same part of the image'],
  ])('refuses %s by name', (_title, message, text) => {
    const bytes = Buffer.from(typeof message === 'string' ? message : JSON.stringify(message));
    const refusal = { code: 'HANDSHAKE_REFUSED', message: expect.stringContaining(text) as string };
    expect(() => parseHandshake(bytes, IMAGE_BYTES)).toThrow(expect.objectContaining(refusal));
  });
});
