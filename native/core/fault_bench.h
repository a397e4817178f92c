// Measures the speed of a fault server on memory of this process, for `vmckpt bench`. Without a VM, nothing
// but the server is measured, and the figures of one machine are comparable.
#pragma once

#include <cstdint>
#include <memory>

#include "core/checkpoint_image.h"

namespace vmckpt {

struct FaultBenchResult {
  /** Inside the server, for faults that one thread takes one after the other; nothing else is running. */
  uint64_t idle_p50_ns;
  uint64_t idle_p99_ns;
  /** The same while two background threads install the rest. */
  uint64_t loaded_p99_ns;
  uint64_t idle_count;
  /** As idle_p50_ns, for a minimal loop that answers each fault with UFFDIO_COPY of a page at hand. */
  uint64_t bare_fault_p50_ns;
  uint64_t loaded_count;
  /** All data, installed by one background thread; nothing touches the memory. */
  uint64_t bulk_bytes;
  uint64_t bulk_ns;
  /**
   * The same pages in the same order, installed by a loop of UFFDIO_COPY from a mapping of the file that has
   * been read before. Only for raw pages; otherwise 0.
   */
  uint64_t bare_ns;
};

/**
 * Measures the first `page_count` pages. The image's files should be in the page cache. Throws SystemError,
 * DamagedImage.
 */
FaultBenchResult MeasureFaults(const std::shared_ptr<CheckpointImage>& image, uint64_t page_count,
                               uint64_t seed);

}  // namespace vmckpt
