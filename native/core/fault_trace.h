// Which pages were requested, and when: working sets are learned from this. Bounded; several threads may add
// to it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/anonymous_memory.h"

namespace vmckpt {

class FaultTrace {
 public:
  using Clock = std::chrono::steady_clock;
  /**
   * One more than a recorded trace may have (src/working-set/trace.ts), so that the reader sees that it was
   * cut.
   */
  static constexpr size_t kMaxFaults = (1 << 20) + 1;

  struct Fault {
    uint32_t page;
    /** Since the trace began, in microseconds. */
    uint32_t at_us;
  };

  void Add(uint64_t page, Clock::time_point at) {
    size_t index = count_.fetch_add(1, std::memory_order_relaxed);
    if (index >= kMaxFaults) return;
    auto since = std::chrono::duration_cast<std::chrono::microseconds>(at - began_).count();
    Slots()[index].store(static_cast<uint64_t>(page) << 32 | static_cast<uint32_t>(since),
                         std::memory_order_release);
  }

  /** What has been added so far, unordered. */
  std::vector<Fault> Faults() const {
    size_t count = std::min(count_.load(), kMaxFaults);
    std::vector<Fault> faults;
    faults.reserve(count);
    for (size_t i = 0; i < count; i++) {
      uint64_t slot = Slots()[i].load(std::memory_order_acquire);
      if (slot == 0) continue;  // counted, but not written yet
      faults.push_back({.page = static_cast<uint32_t>(slot >> 32), .at_us = static_cast<uint32_t>(slot)});
    }
    return faults;
  }

 private:
  std::atomic<uint64_t>* Slots() const { return reinterpret_cast<std::atomic<uint64_t>*>(memory_.data()); }

  const Clock::time_point began_ = Clock::now();
  AnonymousMemory memory_{kMaxFaults * sizeof(uint64_t)};
  std::atomic<size_t> count_{0};
};

}  // namespace vmckpt
