// What is known of every page of a VM that is being restored, and how the restore goes, in a memfd: it
// outlives the process that serves the memory, and its successor goes on from it.
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
  /** Somebody is about to install it. */
  kInFlight = 2,
  kInstalled = 3,
  /** Cannot be had: its extent is damaged. */
  kFailed = 4,
  /** Given back by the VM: never to be installed again, it reads as zero. */
  kRemoved = 5,
  /** Left out until all else is in place, unless somebody waits for it: to see whether anybody does. */
  kWithheld = 6,
  /** Absent, and waited for: its source did not have it when it was asked for. */
  kStarving = 7,
};

/** Values on a scale that is fine in proportion: 16 steps for each doubling. */
class LatencyHistogram {
 public:
  void Record(uint64_t nanoseconds);
  /** The value below which the share `quantile` of all lies, to 6 %; 0 when there is none. */
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

/** All of these count pages, but for the first two. */
struct TransferCounters {
  std::atomic<uint64_t> demand_faults;
  /** Of them, those on withheld pages. */
  std::atomic<uint64_t> withheld_faults;
  /** Installed because somebody waited for them. */
  std::atomic<uint64_t> demand_pages;
  /** Of the same extents as demanded pages. */
  std::atomic<uint64_t> neighbour_pages;
  std::atomic<uint64_t> prefetched_pages;
  std::atomic<uint64_t> background_pages;
  /** Pages that carry no data: demanded, neighbours of those, predicted. */
  std::atomic<uint64_t> zero_pages;
  /** Given back by the VM; one that is given back twice counts twice. */
  std::atomic<uint64_t> removed_pages;
};

/** Of the source: it did not have what was asked for. */
struct StarvationCounters {
  /** Pages that had to wait for it. */
  std::atomic<uint64_t> pages;
  /** In which at least one page did. */
  std::atomic<uint64_t> nanoseconds;
};

class PageTable {
 public:
  /** A new table, all pages absent. */
  static PageTable Create(uint64_t page_count);
  /** The table that a process before this one has made. Throws SystemError EINVAL if it is not for
   * `page_count` pages. */
  static PageTable Adopt(Fd memfd, uint64_t page_count);

  PageTable(PageTable&& other) noexcept;
  PageTable& operator=(PageTable&&) = delete;
  ~PageTable();

  int fd() const { return memfd_.get(); }
  uint64_t page_count() const;

  PageState StateOf(uint64_t page) const { return states_[page].load(std::memory_order_acquire); }
  void Set(uint64_t page, PageState state) { states_[page].store(state, std::memory_order_release); }

  /** Whether a page in this state is there for the next one to claim it. */
  static bool IsClaimable(PageState state) {
    return state == PageState::kAbsent || state == PageState::kQueued || state == PageState::kWithheld ||
           state == PageState::kStarving;
  }

  /** Marks a claimable page in flight; true for the one caller that did. */
  bool Claim(uint64_t page) { return Claim(page, true).has_value(); }

  /** As above, but leaves withheld pages alone unless told otherwise. Gives the state that the page was in.
   */
  std::optional<PageState> Claim(uint64_t page, bool withheld_too);

  /** Sets the state of absent pages: kQueued or kWithheld. */
  void Plan(uint64_t first, uint64_t count, PageState state);

  /** For each page from `first` on that is not 0 in `presence`. */
  void MarkInstalled(uint64_t first, std::span<const uint8_t> presence);

  /** Sets the state of a page that its caller has claimed, unless it was removed meanwhile. */
  void Settle(uint64_t page, PageState state) {
    PageState claimed = PageState::kInFlight;
    states_[page].compare_exchange_strong(claimed, state, std::memory_order_acq_rel);
  }

  /** What a dead process had claimed can be claimed again; what it could not have is tried, and reported,
   * again. */
  void ForgetClaims();

  TransferCounters& counters();
  LatencyHistogram& fault_times();
  StarvationCounters& starvation();

  /**
   * The RAM block, by its index, that QEMU's last request has named: later ones may leave the name out. And
   * how far the migration stream has come, which only the owner of the stream understands.
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
