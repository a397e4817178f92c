// The part of a fault server that installs huge pages (hugetlbfs). All pages of the image in one huge page
// are gathered first, from all extents that hold them.
#include <algorithm>
#include <cstring>

#include "core/fault_background.h"
#include "core/fault_server.h"

namespace vmckpt {

namespace {

/** 16 MiB that are asked for and not here yet are enough. */
constexpr unsigned kHugePagesAhead = 8;

}  // namespace

/** `page`, the first page of a huge page, is claimed. */
void FaultServer::InstallHuge(Worker& worker, uint64_t page, Lane lane) {
  const size_t unit = RegionOf(page)->unit();
  bool has_data = Gather(worker, page, lane);
  TransferCounters& counters = table_.counters();
  std::atomic<uint64_t>& counter = lane == Lane::kDemand ? counters.demand_pages : counters.background_pages;
  Install({.page = page, .bytes = has_data ? worker.huge_page.data() : nullptr, .page_count = unit});
  counter.fetch_add(unit, std::memory_order_relaxed);
  if (!has_data) counters.zero_pages.fetch_add(unit, std::memory_order_relaxed);
}

/**
 * Collects pages in `worker.huge_page`. False when all of them are zero. Throws SourceUnavailable when
 * extents are not here yet, and all of them have been asked for.
 */
bool FaultServer::Gather(Worker& worker, uint64_t page, Lane lane) {
  const size_t page_count = RegionOf(page)->unit();
  struct Wanted {
    uint32_t extent;
    uint8_t slot;
    uint32_t at;
  };
  std::vector<Wanted> wanted;
  bool has_data = false;
  worker.huge_page.assign(page_count * kPageBytes, 0);
  for (uint32_t at = 0; at < page_count; at++) {
    PageEntry entry = image_->EntryOf(page + at);
    if (entry.kind == PageKind::kData)
      wanted.push_back({.extent = entry.extent, .slot = entry.slot, .at = at});
    else if (entry.kind == PageKind::kFill)
      std::memset(worker.huge_page.data() + at * kPageBytes, entry.fill, kPageBytes);
    has_data |= entry.kind == PageKind::kData || entry.kind == PageKind::kFill;
  }
  // Sorted, so that every extent is decompressed once.
  std::ranges::stable_sort(wanted, {}, &Wanted::extent);
  auto is_first = [&](size_t i) { return i == 0 || wanted[i].extent != wanted[i - 1].extent; };
  const uint32_t seen = image_->arrivals();
  std::vector<uint32_t> absent;
  for (size_t i = 0; i < wanted.size(); i++)
    if (is_first(i) && !image_->Has(wanted[i].extent)) absent.push_back(wanted[i].extent);
  if (!absent.empty()) {
    image_->ReadAhead(absent, lane);
    throw SourceUnavailable(std::to_string(absent.size()) + " extents of a huge page are not here yet", seen);
  }
  ExtentCache::Buffer decoded;
  for (size_t i = 0; i < wanted.size(); i++) {
    const Wanted& next = wanted[i];
    if (is_first(i)) decoded = Read(worker, next.extent);
    std::memcpy(worker.huge_page.data() + next.at * kPageBytes, decoded.get() + next.slot * kPageBytes,
                kPageBytes);
  }
  return has_data;
}

/**
 * Every thread goes through all of them, and installs those that no other thread has claimed. Returns when it
 * has passed over many whose source does not have them yet.
 */
void FaultServer::Background::SendHugePages() {
  Worker worker;
  unsigned late_count = 0;
  for (uint64_t page : huge_pages_) {
    if (MustStop()) return;
    server_.GiveWayToDemand();
    const auto former = server_.table_.Claim(page, true);
    if (!former) continue;
    try {
      server_.InstallHuge(worker, page, Lane::kRest);
    } catch (const SourceUnavailable&) {
      server_.GiveBack(page, *former);
      if (++late_count == kHugePagesAhead) return;
    } catch (const DamagedImage&) {
      server_.table_.Settle(page, PageState::kFailed);
      throw;
    }
  }
}

bool FaultServer::Background::HasData(const MemoryRegion& region, uint64_t first_page) const {
  for (uint64_t page = first_page; page < first_page + region.unit(); page++) {
    PageKind kind = server_.image_->EntryOf(page).kind;
    if (kind == PageKind::kData || kind == PageKind::kFill) return true;
  }
  return false;
}

}  // namespace vmckpt
