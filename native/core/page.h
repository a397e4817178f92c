// The page: the unit of everything that vmckpt saves and restores, and the smallest page of x86-64.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmckpt {

constexpr size_t kPageBytes = 4096;

struct PageRange {
  uint64_t first;
  uint64_t count;
};

}  // namespace vmckpt
