// The part of a fault server that installs huge pages (hugetlbfs). All pages of the image in one huge page
// are gathered first, from all extents that hold them.
#include <algorithm>
#include <cstring>

#include "core/fault_background.h"
#include "core/fault_server.h"

namespace vmckpt {

/** `page`, the first page of a huge page, is claimed. */
void FaultServer::InstallHuge(Worker& worker, uint64_t page, std::atomic<uint64_t>& counter) {
  const size_t unit = RegionOf(page)->unit();
  bool has_data = Gather(worker, page, unit);
  Install({.page = page, .bytes = has_data ? worker.huge_page.data() : nullptr, .page_count = unit});
  counter.fetch_add(unit, std::memory_order_relaxed);
  if (!has_data) table_.counters().zero_pages.fetch_add(unit, std::memory_order_relaxed);
}

/** Collects pages in `worker.huge_page`. False when all of them are zero. */
bool FaultServer::Gather(Worker& worker, uint64_t page, size_t page_count) {
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
  ExtentCache::Buffer decoded;
  for (size_t i = 0; i < wanted.size(); i++) {
    const Wanted& next = wanted[i];
    if (i == 0 || next.extent != wanted[i - 1].extent) decoded = Read(worker, next.extent);
    std::memcpy(worker.huge_page.data() + next.at * kPageBytes, decoded.get() + next.slot * kPageBytes,
                kPageBytes);
  }
  return has_data;
}

/** Every thread goes through all of them, and installs those that no other thread has claimed. */
void FaultServer::Background::SendHugePages() {
  Worker worker;
  for (uint64_t page : huge_pages_) {
    if (MustStop()) return;
    server_.GiveWayToDemand();
    const auto former = server_.table_.Claim(page, true);
    if (!former) continue;
    try {
      server_.InstallHuge(worker, page, server_.table_.counters().background_pages);
    } catch (const SourceUnavailable&) {
      server_.GiveBack(page, *former);
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
