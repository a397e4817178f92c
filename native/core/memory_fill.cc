#include "core/memory_fill.h"

#include <sys/uio.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "core/process_memory.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** 256 KiB, written by one call: what has been verified or decompressed is still in the processor's cache. */
constexpr size_t kBatchPages = 64;
/** What a thread takes at a time, with extents of 8 pages 2 MiB: two threads rarely zero the same huge page.
 */
constexpr uint64_t kStretchExtents = 64;
/** The kernel is told so far ahead of the writing what will be read; more does not make a disk faster. */
constexpr uint64_t kReadAheadExtents = 2 * kStretchExtents;

}  // namespace

/** One thread's tools: gathers pages that lie in memory here, and writes them together. */
class MemoryFill::Writer {
 public:
  explicit Writer(MemoryFill& fill)
      : fill_(fill),
        extent_bytes_(fill.image_->facts().extent_pages * kPageBytes),
        room_(fill.batch_extents_ * extent_bytes_) {}

  /** Reads and writes pieces [first, end), one batch of them. */
  void Write(uint64_t first, uint64_t end) {
    for (uint64_t at = first; at < end; at++) Gather(at, room_.data() + (at - first) * extent_bytes_);
    try {
      WriteProcessMemory(fill_.options_.pid, local_, remote_);
    } catch (const SystemError& error) {
      // A mapped file that cannot be read any more looks the same as an address that is wrong.
      if (error.error() == EFAULT) VerifyAgain(first, end);
      throw;
    }
    Account();
  }

 private:
  void Gather(uint64_t at, uint8_t* room) {
    if (at >= fill_.extents_.size()) return GatherRepeated(at - fill_.extents_.size(), room);
    auto pages = fill_.map_->PagesOf(fill_.extents_[at]);
    if (std::ranges::all_of(pages, [](uint32_t page) { return page == ExtentMap::kNoPage; })) return;
    const uint8_t* bytes = fill_.image_->Read(fill_.extents_[at], decoder_, room);
    for (size_t slot = 0; slot < pages.size(); slot++)
      if (pages[slot] != ExtentMap::kNoPage) Add(pages[slot], bytes + slot * kPageBytes);
  }

  void GatherRepeated(uint64_t index, uint8_t* room) {
    uint32_t page = fill_.map_->fill_pages()[index];
    std::fill_n(room, kPageBytes, fill_.image_->EntryOf(page).fill);
    Add(page, room);
  }

  void Add(uint32_t page, const uint8_t* bytes) {
    const MemoryRegion* region = RegionOf(fill_.options_.regions, page);
    if (region == nullptr) return;
    pages_.push_back(page);
    auto* from = const_cast<uint8_t*>(bytes);
    auto* to = reinterpret_cast<uint8_t*>(region->address + (page - region->first_page) * kPageBytes);
    bool follows = !local_.empty() && EndOf(local_.back()) == from && EndOf(remote_.back()) == to;
    if (follows) {
      local_.back().iov_len += kPageBytes;
      remote_.back().iov_len += kPageBytes;
    } else {
      local_.push_back({from, kPageBytes});
      remote_.push_back({to, kPageBytes});
    }
  }

  static uint8_t* EndOf(const iovec& vector) {
    return static_cast<uint8_t*>(vector.iov_base) + vector.iov_len;
  }

  void VerifyAgain(uint64_t first, uint64_t end) {
    for (uint64_t at = first; at < std::min(end, fill_.extents_.size()); at++)
      fill_.image_->Read(fill_.extents_[at], decoder_, room_.data());
  }

  void Account() {
    if (PageTable* table = fill_.options_.table) {
      for (uint32_t page : pages_) table->Set(page, PageState::kInstalled);
      table->counters().prefetched_pages.fetch_add(pages_.size(), std::memory_order_relaxed);
    }
    fill_.page_count_.fetch_add(pages_.size(), std::memory_order_relaxed);
    pages_.clear();
    local_.clear();
    remote_.clear();
  }

  MemoryFill& fill_;
  const size_t extent_bytes_;
  std::vector<uint8_t> room_;
  ExtentDecoder decoder_;
  std::vector<uint32_t> pages_;
  std::vector<iovec> local_;
  std::vector<iovec> remote_;
};

MemoryFill::MemoryFill(std::shared_ptr<CheckpointImage> image, Options options)
    : image_(std::move(image)),
      options_(std::move(options)),
      batch_extents_(std::max<uint64_t>(1, kBatchPages / image_->facts().extent_pages)) {}

bool MemoryFill::Run() {
  if (options_.budget.count() > 0) deadline_ = Clock::now() + options_.budget;
  Plan();
  {
    std::vector<std::jthread> helpers;
    for (unsigned i = 1; i < options_.threads; i++) helpers.emplace_back([this] { Work(); });
    Work();
  }
  if (failure_) std::rethrow_exception(failure_);
  return !cut_short_;
}

void MemoryFill::Plan() {
  if (options_.order) return PlanInOrder(*options_.order);
  std::vector<ExtentMap::PageRange> all;
  for (const MemoryRegion& region : options_.regions)
    all.push_back({.first = region.first_page, .count = region.page_count});
  map_.emplace(*image_, all);
  extents_.resize(image_->facts().extent_count);
  std::iota(extents_.begin(), extents_.end(), 0);
}

void MemoryFill::PlanInOrder(std::span<const ExtentMap::PageRange> order) {
  map_.emplace(*image_, order);
  std::vector<bool> is_planned(image_->facts().extent_count);
  for (auto [first, count] : order) {
    for (uint64_t page = first; page < first + count; page++) {
      PageEntry entry = image_->EntryOf(page);
      if (entry.kind != PageKind::kData || is_planned[entry.extent]) continue;
      is_planned[entry.extent] = true;
      extents_.push_back(entry.extent);
    }
  }
}

void MemoryFill::Work() {
  try {
    Writer writer(*this);
    const uint64_t end = extents_.size() + map_->fill_pages().size();
    for (uint64_t first; (first = next_.fetch_add(kStretchExtents)) < end;) {
      if (first == 0) ReadAhead(0, kReadAheadExtents);
      ReadAhead(first + kReadAheadExtents, kStretchExtents);
      WriteStretch(writer, first, std::min(first + kStretchExtents, end));
    }
  } catch (...) {
    Fail(std::current_exception());
  }
}

void MemoryFill::WriteStretch(Writer& writer, uint64_t first, uint64_t end) {
  for (uint64_t at = first; at < end; at += batch_extents_) {
    if (MustStop()) {
      cut_short_ = true;
      return;
    }
    writer.Write(at, std::min(at + batch_extents_, end));
  }
}

/** Extents that follow each other in the order, too, are asked for together. */
void MemoryFill::ReadAhead(uint64_t position, uint64_t count) {
  uint64_t end = std::min<uint64_t>(position + count, extents_.size());
  while (position < end) {
    uint64_t first = position++;
    while (position < end && extents_[position] == extents_[position - 1] + 1) position++;
    image_->ReadAhead(extents_[first], position - first);
  }
}

bool MemoryFill::MustStop() const { return stopped_ || Clock::now() >= deadline_; }

void MemoryFill::Fail(std::exception_ptr failure) {
  std::lock_guard lock(failing_);
  if (!failure_) failure_ = failure;
  stopped_ = true;
}

}  // namespace vmckpt
