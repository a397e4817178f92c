/** Which of QEMU's memory consists of huge pages (hugetlbfs). A huge page is installed as a whole. */
import { VmckptError } from '../errors.js';
import type { HugePageSizes } from '../pages/host-pages.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { readRamBlocks } from './compatibility.js';
import type { QmpClient } from './qmp.js';
import { formatBytes } from '../util/units.js';

/** A larger page takes so long that loading all memory first is better. */
const LARGEST_ON_DEMAND_BYTES = 2 << 20;

/** @throws VmckptError QEMU_UNSUPPORTED when pages are too large to come on demand */
export async function findHugePages(qmp: QmpClient, mode: 'lazy' | 'eager'): Promise<HugePageSizes> {
  const huge = (await readRamBlocks(qmp)).filter(({ pageBytes }) => pageBytes > PAGE_BYTES);
  const tooLarge = huge.find(({ pageBytes }) => pageBytes > LARGEST_ON_DEMAND_BYTES);
  if (mode === 'lazy' && tooLarge !== undefined)
    throw new VmckptError(
      'QEMU_UNSUPPORTED',
      `memory "${tooLarge.name}" has pages of ${formatBytes(tooLarge.pageBytes)}, which cannot come on demand`,
      { hint: 'Load all of it before the VM runs: --mode eager. Or use pages of 2 MiB.' },
    );
  return Object.fromEntries(huge.map(({ name, pageBytes }) => [name, pageBytes]));
}
