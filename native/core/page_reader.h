// Pages of another process, read once each and judged while they are in the processor's cache: what kind they
// are, which checksum they have, and, side by side, the bytes of those worth storing.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/memory_region.h"

namespace vmckpt {

/** Side by side in the process. */
struct PlacedPages {
  uint64_t address;
  uint64_t count;
};

/** Beside PageKind: the page has the checksum that was expected. */
constexpr uint8_t kUnchangedPage = 255;

struct PageReading {
  std::span<const PlacedPages> runs;
  /** Room for all of the pages. Those of kind kData end up at its start, in order and without gaps. */
  uint8_t* into;
  /** One for each page, out: a PageKind, or kUnchangedPage. */
  uint8_t* kinds;
  /** Out: the byte that a page of kind kFill repeats, otherwise 0. */
  uint8_t* fills;
  /** Two for each page, out: its checksum; (byte, 1) where it repeats one byte. Null: none are wanted. */
  uint64_t* checksums;
  /** Of an earlier reading, or null, as without checksums. */
  const uint64_t* expected;
};

/** → how many pages of kind kData. Throws SystemError: EPERM, ESRCH, EFAULT where the process has no memory.
 */
size_t ReadPages(pid_t pid, const PageReading& reading);

}  // namespace vmckpt
