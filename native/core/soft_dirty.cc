#include "core/soft_dirty.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "core/anonymous_memory.h"
#include "core/process_memory.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** Of an entry of pagemap, proc(5). */
constexpr uint64_t kSoftDirty = uint64_t{1} << 55;
/**
 * The page is the process's own, or swapped out: it is not the zero page that the kernel maps where memory is
 * only read, not even after the page that was there had been given back.
 */
constexpr uint64_t kOwn = uint64_t{1} << 56 | uint64_t{1} << 62;
/** To /proc/PID/clear_refs. */
constexpr char kClearSoftDirty = '4';

bool HasChanged(uint64_t entry, bool was_own) {
  return (entry & kSoftDirty) != 0 || (was_own && (entry & kOwn) == 0);
}

PageRange AllOf(const std::vector<MemoryRegion>& regions) {
  return {.first = 0, .count = regions.empty() ? 0 : regions.back().first_page + regions.back().page_count};
}

}  // namespace

SoftDirty::SoftDirty(pid_t pid, std::vector<MemoryRegion> regions)
    : pagemap_(OpenPagemap(pid)),
      clear_refs_(Check(
          ::open(("/proc/" + std::to_string(pid) + "/clear_refs").c_str(), O_WRONLY | O_CLOEXEC), "open")),
      regions_(std::move(regions)),
      all_(AllOf(regions_)),
      own_(all_.count) {}

template <typename Visit>
void SoftDirty::ForEach(PageRange within, Visit visit) const {
  for (const MemoryRegion& region : Clipped(regions_, within))
    ForEachPagemapEntry(pagemap_.get(), region.address, region.page_count,
                        [&](size_t i, uint64_t entry) { visit(region.first_page + i, entry); });
}

void SoftDirty::Arm() {
  Clear();
  ForEach(all_, [&](uint64_t page, uint64_t entry) { own_[page] = (entry & kOwn) != 0; });
}

PageRuns SoftDirty::Look(PageRange within) const {
  PageRuns changed;
  ForEach(within, [&](uint64_t page, uint64_t entry) {
    if (HasChanged(entry, own_[page])) Append(changed, {.first = page, .count = 1});
  });
  return changed;
}

PageRuns SoftDirty::Take() {
  PageRuns changed;
  ForEach(all_, [&](uint64_t page, uint64_t entry) {
    if (HasChanged(entry, own_[page])) Append(changed, {.first = page, .count = 1});
    own_[page] = (entry & kOwn) != 0;
  });
  Clear();
  return changed;
}

void SoftDirty::Clear() { Check(::write(clear_refs_.get(), &kClearSoftDirty, 1), "write"); }

std::string SoftDirtyProblem() {
  AnonymousMemory page(kPageBytes);
  *static_cast<volatile uint8_t*>(page.data()) = 1;
  Fd pagemap = OpenPagemap(::getpid());
  bool is_set = false;
  ForEachPagemapEntry(pagemap.get(), reinterpret_cast<uint64_t>(page.data()), 1,
                      [&](size_t, uint64_t entry) { is_set = (entry & kSoftDirty) != 0; });
  return is_set ? "" : "the kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)";
}

}  // namespace vmckpt
