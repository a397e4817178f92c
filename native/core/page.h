// What a page is: the unit of everything that vmckpt saves and restores, and x86-64's smallest.
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
