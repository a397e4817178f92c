// The part of a fault server that handles a VM which gives memory back (a balloon): madvise(MADV_DONTNEED).
// Removed memory reads as zero from then on, and must never be filled from the image again.
//
// The kernel announces a removal before it carries it out: the removing thread waits until the event has been
// read. In between nothing can be installed (EAGAIN). But before Linux 6.8, a UFFDIO_COPY that has passed
// this test continues, and may install its page after the removal; the gate prevents that. And a page that
// was claimed before its removal may be about to be installed after it, so the table is checked again under
// the gate.
#include <sys/eventfd.h>

#include <algorithm>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "core/fault_server.h"

namespace vmckpt {

namespace {

/** Time for the removing thread to continue after its event has been read. */
constexpr auto kLookAgainAfter = std::chrono::microseconds(20);
/** More than the number of threads whose faults on huge pages may arrive after the page was installed. */
constexpr unsigned kMaxVainFaults = 10'000;

}  // namespace

/** The address of the next fault; nothing when no event waits. */
std::optional<uint64_t> FaultServer::NextFault() {
  if (!userfaultfd_.pages_may_go()) {
    auto event = userfaultfd_.ReadEvent();
    return event ? std::optional(event->range.start) : std::nullopt;
  }
  std::lock_guard alone(gate_);
  if (!postponed_.empty()) {
    uint64_t address = postponed_.front();
    postponed_.pop_front();
    eventfd_t one;
    ::eventfd_read(postponed_event_.get(), &one);
    return address;
  }
  while (auto event = userfaultfd_.ReadEvent()) {
    if (event->kind == MemoryEvent::Kind::kFault) return event->range.start;
    NoteRemoval(event->range);
  }
  return std::nullopt;
}

/** Reads all events that prevent pages from being installed. False when there was none. */
bool FaultServer::ReadEvents() {
  std::lock_guard alone(gate_);
  bool any = false;
  while (auto event = userfaultfd_.ReadEvent()) {
    any = true;
    if (event->kind == MemoryEvent::Kind::kRemoval) {
      NoteRemoval(event->range);
    } else {
      postponed_.push_back(event->range.start);
      ::eventfd_write(postponed_event_.get(), 1);
    }
  }
  return any;
}

void FaultServer::NoteRemoval(AddressRange range) {
  for (const MemoryRegion& region : options_.regions) {
    uint64_t start = std::max(range.start, region.address);
    uint64_t end = std::min(range.end, region.address + region.page_count * kPageBytes);
    if (start >= end) continue;
    uint64_t first = region.first_page + (start - region.address) / kPageBytes;
    uint64_t count = (end - start) / kPageBytes;
    for (uint64_t page = first; page < first + count; page++) table_.Set(page, PageState::kRemoved);
    table_.counters().removed_pages.fetch_add(count, std::memory_order_relaxed);
    ResolveAwaited(first, count);
    // A thread that waits there for a removed page faults again, and gets zeros.
    userfaultfd_.Wake(start, end - start);
  }
}

/**
 * Handles a fault on a page that was removed, or was in place. If it is still in place, it stays and its
 * waiter is woken. If it has gone without an event, it reads as zero, too.
 */
void FaultServer::InstallRemoved(uint64_t page, Clock::time_point since) {
  Run zeros{.page = page, .bytes = nullptr, .page_count = RegionOf(page)->unit()};
  bool was_there = BetweenEvents([&] { return Place(zeros); }) == Userfaultfd::Outcome::kWasThere;
  vain_faults_ = was_there ? vain_faults_ + 1 : 0;
  // Then the page is missing, but the system has no free huge page, and the fault is repeated endlessly.
  if (vain_faults_ > kMaxVainFaults) throw SystemError(ENOMEM, "UFFDIO_COPY of a huge page");
  RecordFault(since);
}

Userfaultfd::Outcome FaultServer::PutUnlessRemoved(const Run& run) {
  const uint64_t unit = RegionOf(run.page)->unit();
  auto is_removed = [&](size_t at) { return table_.StateOf(run.page + at) == PageState::kRemoved; };
  return BetweenEvents([&] {
    for (size_t at = 0; at < run.page_count;) {
      size_t end = at;
      while (end < run.page_count && !is_removed(end)) end += unit;
      const uint8_t* bytes = run.bytes == nullptr ? nullptr : run.bytes + at * kPageBytes;
      auto outcome =
          end == at
              ? Userfaultfd::Outcome::kInstalled
              : Place(
                    {.page = run.page + at, .bytes = bytes, .page_count = end - at, .waiters = run.waiters});
      if (outcome != Userfaultfd::Outcome::kInstalled) return outcome;
      at = std::max(end, at + unit);
    }
    return Userfaultfd::Outcome::kInstalled;
  });
}

/** Repeats an attempt that an unread event has interrupted. */
template <typename Attempt>
Userfaultfd::Outcome FaultServer::BetweenEvents(Attempt attempt) {
  while (!stopping_) {
    {
      std::shared_lock together(gate_);
      auto outcome = attempt();
      if (outcome != Userfaultfd::Outcome::kEventWaits) return outcome;
    }
    if (!ReadEvents()) std::this_thread::sleep_for(kLookAgainAfter);
  }
  return Userfaultfd::Outcome::kEventWaits;
}

void FaultServer::HandBack() {
  for (const MemoryRegion& region : options_.regions)
    userfaultfd_.Unregister(
        {.start = region.address, .end = region.address + region.page_count * kPageBytes});
  // A thread that began to remove memory before that waits until its event has been read, and may not even
  // have sent it yet. While there is such a thread, no page can be installed. So this tries to install one,
  // where none is possible any more.
  const MemoryRegion& first = options_.regions.front();
  BetweenEvents(
      [&] { return Place({.page = first.first_page, .bytes = nullptr, .page_count = first.unit()}); });
}

}  // namespace vmckpt
