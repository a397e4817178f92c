/**
 * The message with which a VMM hands over its memory: a JSON array with one object for each region of guest memory. The
 * sender may be broken or hostile, so every number is checked against its bounds and against the image.
 * Source: Firecracker, docs/snapshotting/handling-page-faults-on-snapshot-resume.md. No I/O here.
 */
import * as v from 'valibot';
import { VmckptError } from '../errors.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { misfit, natural, quote } from '../util/schema.js';

export const MAX_MESSAGE_BYTES = 64 << 10;
const MAX_REGIONS = 64;
/** The end of user space on x86-64. */
const ADDRESS_END = 2 ** 47;
const HUGE_PAGE_BYTES = 2 << 20;
const PAGE_SIZES: readonly number[] = [PAGE_BYTES, HUGE_PAGE_BYTES];

/** A part of a VM's memory, and where its contents are in the image. */
export interface GuestRegion {
  readonly address: number;
  readonly bytes: number;
  /** Offset in the image. */
  readonly offset: number;
  readonly pageBytes: number;
}

const number = v.pipe(natural, v.maxValue(ADDRESS_END));
const messageSchema = v.pipe(
  v.array(
    v.object({
      base_host_virt_addr: number,
      size: v.pipe(number, v.gtValue(0)),
      offset: number,
      page_size: v.optional(number),
      /** In bytes, despite its name. Older Firecrackers send only this one. */
      page_size_kib: v.optional(number),
    }),
  ),
  v.minLength(1),
  v.maxLength(MAX_REGIONS),
);

/**
 * The regions that a message names; undefined while the message is incomplete.
 * @throws VmckptError HANDSHAKE_REFUSED
 */
export function parseHandshake(message: Buffer, imageBytes: number): GuestRegion[] | undefined {
  const text = message.toString('utf8').trim();
  if (text !== '' && !text.startsWith('[')) refuse(`expected a JSON array, found ${quote(text)}`);
  // The array is complete at the first closing bracket: no value in it has brackets.
  if (!text.endsWith(']')) return undefined;
  const parsed = v.safeParse(messageSchema, parseJson(text));
  if (!parsed.success) refuse(`expected an array of regions: ${misfit(parsed.issues)}`);
  const regions = parsed.output.map((region, index) => {
    const { page_size: pageSize, page_size_kib: oldPageSize } = region;
    const pageBytes = pageSize ?? oldPageSize ?? PAGE_BYTES;
    if (pageSize !== undefined && oldPageSize !== undefined && pageSize !== oldPageSize)
      refuse(
        `region ${index} has page_size ${pageSize} and page_size_kib ${oldPageSize}, expected the same value`,
      );
    return {
      address: region.base_host_virt_addr,
      bytes: region.size,
      offset: region.offset,
      pageBytes,
    };
  });
  for (const [index, region] of regions.entries()) requireRegion(region, index, imageBytes);
  requireApart(regions, 'address', 'lie at the same addresses');
  requireApart(regions, 'offset', 'have the same part of the image');
  return regions;
}

function requireRegion(
  { address, bytes, offset, pageBytes }: GuestRegion,
  index: number,
  imageBytes: number,
): void {
  if (!PAGE_SIZES.includes(pageBytes))
    refuse(`region ${index} has pages of ${pageBytes} bytes, expected ${PAGE_SIZES.join(' or ')}`);
  if (address % pageBytes !== 0 || bytes % pageBytes !== 0)
    refuse(
      `region ${index} has ${bytes} bytes at address ${hex(address)}, expected multiples of ${pageBytes}`,
    );
  if (address === 0 || address + bytes > ADDRESS_END)
    refuse(
      `region ${index} runs from ${hex(address)} to ${hex(address + bytes)}, expected above 0 and up to ${hex(ADDRESS_END)}`,
    );
  if (offset % PAGE_BYTES !== 0)
    refuse(`region ${index} has the offset ${offset}, expected a multiple of ${PAGE_BYTES}`);
  if (offset + bytes > imageBytes)
    refuse(
      `region ${index} has the image's bytes ${offset} to ${offset + bytes}, but the image has ${imageBytes}: ` +
        'expected the memory file of the same snapshot',
    );
}

function requireApart(regions: readonly GuestRegion[], start: 'address' | 'offset', fault: string): void {
  const order = [...regions.entries()].sort(([, a], [, b]) => a[start] - b[start]);
  for (const [at, [index, region]] of order.entries()) {
    const next = order[at + 1];
    if (next !== undefined && region[start] + region.bytes > next[1][start])
      refuse(`regions ${index} and ${next[0]} ${fault}`);
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return refuse(`expected JSON, found ${quote(text)}`);
  }
}

function hex(address: number): string {
  return `0x${address.toString(16)}`;
}

function refuse(message: string): never {
  throw new VmckptError('HANDSHAKE_REFUSED', message);
}
