// Which pages lie in an extent: the page index, turned round. Pages that carry one repeated byte lie in none.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/anonymous_memory.h"
#include "core/checkpoint_image.h"

namespace vmckpt {

class ExtentMap {
 public:
  static constexpr uint32_t kNoPage = UINT32_MAX;

  struct PageRange {
    uint64_t first;
    uint64_t count;
  };

  /** Reads the index entries of all `ranges`. Throws DamagedImage. */
  ExtentMap(CheckpointImage& image, std::span<const PageRange> ranges);

  /** By slot; kNoPage where a slot's page was superseded, or lies outside the ranges. */
  std::span<const uint32_t> PagesOf(uint64_t extent) const {
    return {reinterpret_cast<const uint32_t*>(pages_.data()) + extent * extent_pages_, extent_pages_};
  }
  const std::vector<uint32_t>& fill_pages() const { return fill_pages_; }

 private:
  size_t extent_pages_;
  AnonymousMemory pages_;
  std::vector<uint32_t> fill_pages_;
};

}  // namespace vmckpt
