// Where pages of a VM are in a process.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/page.h"

namespace vmckpt {

/** Pages of the VM that are adjacent in the process. */
struct MemoryRegion {
  uint64_t address;
  uint64_t first_page;
  uint64_t page_count;
  /**
   * The process's page size: kPageBytes, or that of hugetlbfs. A huge page is installed as a whole, and the
   * table represents it by its first page.
   */
  uint64_t page_bytes = kPageBytes;

  bool is_huge() const { return page_bytes != kPageBytes; }
  /** Pages of the image per page of the process. */
  uint64_t unit() const { return page_bytes / kPageBytes; }
};

/** The region of `page`; null when it is in none. */
inline const MemoryRegion* RegionOf(std::span<const MemoryRegion> regions, uint64_t page) {
  for (const MemoryRegion& region : regions)
    if (page - region.first_page < region.page_count) return &region;
  return nullptr;
}

/** What of the regions holds pages of `within`. */
inline std::vector<MemoryRegion> Clipped(std::span<const MemoryRegion> regions, PageRange within) {
  std::vector<MemoryRegion> clipped;
  for (MemoryRegion region : regions) {
    const uint64_t first = std::max(region.first_page, within.first);
    const uint64_t end = std::min(region.first_page + region.page_count, within.first + within.count);
    if (first >= end) continue;
    region.address += (first - region.first_page) * kPageBytes;
    region.first_page = first;
    region.page_count = end - first;
    clipped.push_back(region);
  }
  return clipped;
}

}  // namespace vmckpt
