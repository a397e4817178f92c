// Where pages of a VM lie in a process.
#pragma once

#include <cstdint>
#include <span>

#include "core/page.h"

namespace vmckpt {

/** Pages of the VM that lie side by side in the process. */
struct MemoryRegion {
  uint64_t address;
  uint64_t first_page;
  uint64_t page_count;
  /**
   * Of the process: kPageBytes, or those of hugetlbfs. A huge page is installed as a whole, and the table
   * knows it by the first of its pages.
   */
  uint64_t page_bytes = kPageBytes;

  bool is_huge() const { return page_bytes != kPageBytes; }
  /** Pages of the image in one of the process. */
  uint64_t unit() const { return page_bytes / kPageBytes; }
};

/** The region of `page`; null when it lies in none. */
inline const MemoryRegion* RegionOf(std::span<const MemoryRegion> regions, uint64_t page) {
  for (const MemoryRegion& region : regions)
    if (page - region.first_page < region.page_count) return &region;
  return nullptr;
}

}  // namespace vmckpt
