/** Which of QEMU's memory is made of huge pages (hugetlbfs): such a page is put in place as a whole. */
import { VmckptError } from '../errors.js';
import type { HugePageSizes } from '../pages/host-pages.js';
import { PAGE_BYTES } from '../pages/layout.js';
import { readRamBlocks } from './compatibility.js';
import type { QmpClient } from './qmp.js';
import { formatBytes } from '../util/units.js';

/** A larger one takes so long that the VM would rather have waited for all of its memory. */
const LARGEST_ON_DEMAND_BYTES = 2 << 20;

/** @throws VmckptError QEMU_UNSUPPORTED when its pages are too large to come one by one */
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
