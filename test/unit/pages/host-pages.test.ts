import { describe, expect, it } from 'vitest';
import { HostPages } from '../../../src/pages/host-pages.js';
import { RamLayout } from '../../../src/pages/layout.js';

/** The huge block begins where a huge page of the host would not. */
const layout = new RamLayout([
  { name: 'rom', usedBytes: 3 * 4096 },
  { name: 'huge', usedBytes: 4 << 20 },
]);

describe('HostPages', () => {
  it('finds the pages of the host’s page around one of ours', () => {
    const hostPages = new HostPages(layout, { huge: 2 << 20 });
    expect(hostPages.around(2)).toEqual({ firstPage: 2, endPage: 3 });
    expect(hostPages.around(3)).toEqual({ firstPage: 3, endPage: 515 });
    expect(hostPages.around(514)).toEqual({ firstPage: 3, endPage: 515 });
    expect(hostPages.around(515)).toEqual({ firstPage: 515, endPage: 1027 });
  });

  it('has pages as ours where nothing else is said', () => {
    const hostPages = new HostPages(layout);
    expect(hostPages.around(514)).toEqual({ firstPage: 514, endPage: 515 });
    expect(hostPages.sizeBits).toBe(4096);
  });
});
