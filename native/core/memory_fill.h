// Writes pages of a checkpoint straight into a process that does not run yet, a QEMU that waits for its
// machine: process_vm_writev(2) from several threads, from the mapped file or out of the cache that a thread
// has just decompressed into. The process faults as if it wrote there itself, so its huge pages stay huge.
//
// The memory must be fresh (where all of it is written, pages that read as zero are left out) and must not
// wait for its pages (userfaultfd): a write would wait with it.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "core/checkpoint_image.h"
#include "core/install_order.h"
#include "core/memory_region.h"
#include "core/page_table.h"

namespace vmckpt {

class MemoryFill {
 public:
  struct Options {
    pid_t pid;
    std::vector<MemoryRegion> regions;
    /** The pages to write, zero ones too, those wanted first in front; without it all data of the regions. */
    std::optional<std::vector<PageRange>> order;
    /** Told of every page in place, for a fault server that serves the rest; may be null. Outlives the fill.
     */
    PageTable* table;
    unsigned threads;
    /** Nothing is begun when it is over; zero for no limit. */
    std::chrono::milliseconds budget;
  };

  MemoryFill(std::shared_ptr<CheckpointImage> image, Options options);

  /**
   * Writes, once only; false when the budget or Stop() has cut it short. Its threads have ended when it
   * returns or throws: DamagedImage; SystemError EPERM without the right to ptrace the process, ESRCH when it
   * has ended, EFAULT where it has no writable memory.
   */
  bool Run();

  /** Lets Run() return soon; from any thread. */
  void Stop() { stopped_ = true; }

  /** Pages in place so far that carry data. */
  uint64_t page_count() const { return page_count_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;
  class Writer;

  void Plan();
  void Work();
  /** Writes pieces [first, end), unless it must stop. */
  void WriteStretch(Writer& writer, uint64_t first, uint64_t end);
  bool MustStop() const;
  void Fail(std::exception_ptr failure);

  std::shared_ptr<CheckpointImage> image_;
  const Options options_;
  InstallOrder order_;
  const uint64_t batch_pieces_;
  const uint64_t stretch_pieces_;
  Clock::time_point deadline_ = Clock::time_point::max();

  /** The next piece of `order_`. */
  std::atomic<uint64_t> next_{0};
  std::atomic<uint64_t> page_count_{0};
  std::atomic<bool> stopped_{false};
  std::atomic<bool> cut_short_{false};
  std::mutex failing_;
  std::exception_ptr failure_;
};

}  // namespace vmckpt
