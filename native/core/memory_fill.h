// Writes pages of a checkpoint directly into a process that does not run yet, a QEMU that waits for its
// machine. Several threads use process_vm_writev(2), from the mapped file or from a buffer that was just
// decompressed and is still cached. The pages fault in as if the process wrote them itself, so its huge pages
// stay huge.
//
// The memory must be fresh (if all of it is written, zero pages are left out) and must not wait for its pages
// (userfaultfd): a write would wait with it.
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
    /**
     * The pages to write, including zero pages, the most wanted first. Without it: all data of the regions.
     */
    std::optional<std::vector<PageRange>> order;
    /**
     * Records every installed page, for a fault server that serves the rest; may be null. Outlives the fill.
     */
    PageTable* table;
    unsigned threads;
    /** When this time is over, nothing more is started; zero for no limit. */
    std::chrono::milliseconds budget;
  };

  MemoryFill(std::shared_ptr<CheckpointImage> image, Options options);

  /**
   * Writes; may be called once. False when the budget or Stop() has cut it short. Its threads have ended when
   * it returns or throws: DamagedImage; SystemError EPERM without the right to ptrace the process, ESRCH when
   * it has ended, EFAULT where it has no writable memory.
   */
  bool Run();

  /** Makes Run() return soon; may be called from any thread. */
  void Stop() { stopped_ = true; }

  /** Number of pages with data that are in place so far. */
  uint64_t page_count() const { return page_count_.load(std::memory_order_relaxed); }

  /** Whether a thread waits for an extent that the source does not have. */
  bool waits_for_source() const { return waiting_count_ > 0; }

 private:
  using Clock = std::chrono::steady_clock;
  class Writer;

  void Plan();
  void Work();
  /** Writes pieces [first, end), unless it must stop. */
  void WriteStretch(Writer& writer, uint64_t first, uint64_t end);
  uint64_t ahead_pieces() const;
  /** Announces pieces from `first` on to their source. */
  void ReadAhead(uint64_t first, uint64_t count) const;
  /** How long a thread may wait for an arrival before it looks whether it must stop. */
  std::chrono::microseconds LongestWait() const;
  bool MustStop() const;
  void Fail(std::exception_ptr failure);

  std::shared_ptr<CheckpointImage> image_;
  const Options options_;
  InstallOrder order_;
  const uint64_t batch_pieces_;
  const uint64_t stretch_pieces_;
  Clock::time_point deadline_ = Clock::time_point::max();

  /** Index of the next piece of `order_`. */
  std::atomic<uint64_t> next_{0};
  std::atomic<uint64_t> page_count_{0};
  std::atomic<unsigned> waiting_count_{0};
  std::atomic<bool> stopped_{false};
  std::atomic<bool> cut_short_{false};
  std::mutex failing_;
  std::exception_ptr failure_;
};

}  // namespace vmckpt
