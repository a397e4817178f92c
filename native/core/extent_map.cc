#include "core/extent_map.h"

#include <cstring>

namespace vmckpt {

ExtentMap::ExtentMap(CheckpointImage& image, std::span<const PageRange> ranges)
    : extent_pages_(image.facts().extent_pages),
      pages_(image.facts().extent_count * extent_pages_ * sizeof(uint32_t)) {
  auto* page_of = reinterpret_cast<uint32_t*>(pages_.data());
  if (pages_.size() > 0) std::memset(page_of, 0xff, pages_.size());
  for (auto [first, count] : ranges) {
    for (uint64_t page = first; page < first + count; page++) {
      PageEntry entry = image.EntryOf(page);
      if (entry.kind == PageKind::kData) page_of[entry.extent * extent_pages_ + entry.slot] = page;
      if (entry.kind == PageKind::kFill) fill_pages_.push_back(page);
    }
  }
}

}  // namespace vmckpt
