// The state of every page of a VM that is being restored, and the restore's counters, in a memfd. It outlives
// the serving process, and the successor continues from it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "core/fd.h"

namespace vmckpt {

enum class PageState : uint8_t {
  kAbsent = 0,
  /** Planned to be sent before others. */
  kQueued = 1,
  /** A thread is about to install it. */
  kInFlight = 2,
  kInstalled = 3,
  /** Unavailable: its extent is damaged. */
  kFailed = 4,
  /** Given back by the VM: reads as zero, and must never be installed again. */
  kRemoved = 5,
  /**
   * Left out until everything else is in place, unless it is requested: this shows whether the guest needs
   * it.
   */
  kWithheld = 6,
  /** Absent and requested: the source did not have it yet. */
  kStarving = 7,
};

/** Counts values with a relative resolution: 16 steps for each doubling. */
class LatencyHistogram {
 public:
  void Record(uint64_t nanoseconds);
  /** The value below which the share `quantile` of all values is, within 6 %; 0 when there are none. */
  uint64_t Quantile(double quantile) const;
  uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  uint64_t total() const { return total_.load(std::memory_order_relaxed); }
  uint64_t max() const { return max_.load(std::memory_order_relaxed); }

 private:
  static constexpr size_t kBuckets = 61 * 16;
  std::array<std::atomic<uint64_t>, kBuckets> buckets_;
  std::atomic<uint64_t> count_;
  std::atomic<uint64_t> total_;
  std::atomic<uint64_t> max_;
};

/** All of these count pages, except for the first two. */
struct TransferCounters {
  std::atomic<uint64_t> demand_faults;
  /** The part of them on withheld pages. */
  std::atomic<uint64_t> withheld_faults;
  /** Installed because a thread waited for them. */
  std::atomic<uint64_t> demand_pages;
  /** In the same extents as demanded pages. */
  std::atomic<uint64_t> neighbour_pages;
  std::atomic<uint64_t> prefetched_pages;
  std::atomic<uint64_t> background_pages;
  /** Pages that carry no data: demanded, neighbours of those, predicted. */
  std::atomic<uint64_t> zero_pages;
  /** Given back by the VM; a page that is given back twice counts twice. */
  std::atomic<uint64_t> removed_pages;
};

/** For a source that did not have what was requested. */
struct StarvationCounters {
  /** Pages that had to wait for it. */
  std::atomic<uint64_t> pages;
  /** Time in which at least one page waited. */
  std::atomic<uint64_t> nanoseconds;
};

class PageTable {
 public:
  /** A new table, all pages absent. */
  static PageTable Create(uint64_t page_count);
  /** The table of an earlier process. Throws SystemError EINVAL if it is not for `page_count` pages. */
  static PageTable Adopt(Fd memfd, uint64_t page_count);

  PageTable(PageTable&& other) noexcept;
  PageTable& operator=(PageTable&&) = delete;
  ~PageTable();

  int fd() const { return memfd_.get(); }
  uint64_t page_count() const;

  PageState StateOf(uint64_t page) const { return states_[page].load(std::memory_order_acquire); }
  void Set(uint64_t page, PageState state) { states_[page].store(state, std::memory_order_release); }

  /** Whether a page in this state may be claimed. */
  static bool IsClaimable(PageState state) {
    return state == PageState::kAbsent || state == PageState::kQueued || state == PageState::kWithheld ||
           state == PageState::kStarving;
  }

  /** Marks a claimable page as in flight; true for the one caller that did it. */
  bool Claim(uint64_t page) { return Claim(page, true).has_value(); }

  /** The same, but leaves withheld pages alone unless `withheld_too`. Returns the page's former state. */
  std::optional<PageState> Claim(uint64_t page, bool withheld_too);

  /** Sets the state of absent pages: kQueued or kWithheld. */
  void Plan(uint64_t first, uint64_t count, PageState state);

  /** Marks each page from `first` on whose `presence` is not 0. */
  void MarkInstalled(uint64_t first, std::span<const uint8_t> presence);

  /** Sets the state of a page that the caller has claimed, unless it was removed in the meantime. */
  void Settle(uint64_t page, PageState state) {
    PageState claimed = PageState::kInFlight;
    states_[page].compare_exchange_strong(claimed, state, std::memory_order_acq_rel);
  }

  /**
   * Makes pages claimable again that a dead process had claimed. Pages that it could not load are tried and
   * reported again.
   */
  void ForgetClaims();

  TransferCounters& counters();
  LatencyHistogram& fault_times();
  StarvationCounters& starvation();

  /**
   * The index of the RAM block that QEMU's last request has named; later requests may omit the name. Next to
   * it, how far the migration stream has come, which only the owner of the stream interprets.
   */
  std::atomic<uint32_t>& requested_block();
  std::atomic<uint32_t>& stream_phase();

 private:
  struct Header;
  PageTable(Fd memfd, size_t bytes);

  Fd memfd_;
  size_t bytes_;
  Header* header_;
  std::atomic<PageState>* states_;
};

}  // namespace vmckpt
