// How fast a fault server is, measured on memory of this very process: for `vmckpt bench`. Without a VM
// around it, so that nothing but the server is measured, and twice on the same machine means the same.
#pragma once

#include <cstdint>
#include <memory>

#include "core/checkpoint_image.h"

namespace vmckpt {

struct FaultBenchResult {
  /** Inside the server, of faults that one thread takes one after the other: nothing else is going on. */
  uint64_t idle_p50_ns;
  uint64_t idle_p99_ns;
  /** The same while two threads of the background install the rest. */
  uint64_t loaded_p99_ns;
  uint64_t idle_count;
  /** As idle_p50_ns, of a loop that knows nothing but UFFDIO_COPY of one page that it has at hand. */
  uint64_t bare_fault_p50_ns;
  uint64_t loaded_count;
  /** All data by one thread of the background, nobody touches anything. */
  uint64_t bulk_bytes;
  uint64_t bulk_ns;
  /**
   * The same pages in the same order by a loop of UFFDIO_COPY from a mapping of the file that has been read
   * before, of what is stored raw; 0 for an image that is not raw.
   */
  uint64_t bare_ns;
};

/** Of the first `page_count` pages. The image's files should be in the page cache. Throws SystemError,
 * DamagedImage. */
FaultBenchResult MeasureFaults(const std::shared_ptr<CheckpointImage>& image, uint64_t page_count,
                               uint64_t seed);

}  // namespace vmckpt
