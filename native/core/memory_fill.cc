#include "core/memory_fill.h"

#include <sys/uio.h>

#include <algorithm>
#include <thread>

#include "core/process_memory.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** 256 KiB, written by one call: the verified or decompressed bytes are still in the processor's cache. */
constexpr size_t kBatchPages = 64;
/** What a thread takes at a time, 2 MiB: two threads rarely zero the same huge page. */
constexpr size_t kStretchPages = 512;
/** How far ahead of the writing the kernel is told what will be read. More does not make a disk faster. */
constexpr uint64_t kReadAheadStretches = 2;
/** Stop() may have to wait this long. */
constexpr std::chrono::microseconds kLongestWait{10'000};
/** What a source does not have after this time is announced once more. */
constexpr std::chrono::milliseconds kRepeatAfter{200};

}  // namespace

/** One thread's tools: gathers pages that are adjacent in this process's memory, and writes them together. */
class MemoryFill::Writer {
 public:
  explicit Writer(MemoryFill& fill)
      : fill_(fill),
        extent_bytes_(fill.image_->facts().extent_pages * kPageBytes),
        room_(fill.batch_pieces_ * extent_bytes_) {}

  /**
   * Reads and writes pieces [first, end), at most one batch. False, with nothing written, when it must stop
   * first.
   */
  bool Write(uint64_t first, uint64_t end) {
    first_ = first;
    for (uint64_t at = first; at < end; at++)
      if (!Gather(fill_.order_.pieces()[at], room_.data() + (at - first) * extent_bytes_)) return false;
    try {
      WriteProcessMemory(fill_.options_.pid, local_, remote_);
    } catch (const SystemError& error) {
      // EFAULT means a wrong address, or a mapped file that became unreadable.
      if (error.error() == EFAULT) VerifyAgain(first, end);
      throw;
    }
    Account();
    return true;
  }

 private:
  bool Gather(const InstallOrder::Piece& piece, uint8_t* room) {
    if (piece.kind == PageKind::kData) return GatherExtent(piece, room);
    const bool is_zero = piece.kind == PageKind::kZero;
    std::fill_n(room, kPageBytes, is_zero ? 0 : fill_.image_->EntryOf(piece.number).fill);
    Add(piece.number, room);
    zero_count_ += is_zero;
    return true;
  }

  bool GatherExtent(const InstallOrder::Piece& extent, uint8_t* room) {
    auto pages = fill_.order_.PagesOf(extent);
    const uint8_t* bytes = Read(extent.number, room);
    if (bytes == nullptr) return false;
    for (size_t slot = 0; slot < pages.size(); slot++)
      if (pages[slot] != InstallOrder::kNoPage) Add(pages[slot], bytes + slot * kPageBytes);
    return true;
  }

  /** Waits until the source has the extent; null when the fill must stop first. */
  const uint8_t* Read(uint32_t extent, uint8_t* room) {
    for (auto repeat_at = Clock::now() + kRepeatAfter;;) {
      const uint32_t seen = fill_.image_->arrivals();
      try {
        if (fill_.image_->Has(extent)) return fill_.image_->Read(extent, decoder_, room);
      } catch (const SourceUnavailable&) {
        // It is fetched once more.
      }
      if (fill_.MustStop()) return nullptr;
      fill_.waiting_count_++;
      fill_.image_->AwaitArrival(seen, fill_.LongestWait());
      fill_.waiting_count_--;
      if (Clock::now() < repeat_at) continue;
      fill_.ReadAhead(first_, fill_.ahead_pieces());
      repeat_at = Clock::now() + kRepeatAfter;
    }
  }

  void Add(uint32_t page, const uint8_t* bytes) {
    const MemoryRegion* region = RegionOf(fill_.options_.regions, page);
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
    for (const InstallOrder::Piece& piece : std::span(fill_.order_.pieces()).subspan(first, end - first))
      if (piece.kind == PageKind::kData) Read(piece.number, room_.data());
  }

  void Account() {
    if (PageTable* table = fill_.options_.table) {
      for (uint32_t page : pages_) table->Set(page, PageState::kInstalled);
      table->counters().prefetched_pages.fetch_add(pages_.size() - zero_count_, std::memory_order_relaxed);
      table->counters().zero_pages.fetch_add(zero_count_, std::memory_order_relaxed);
    }
    fill_.page_count_.fetch_add(pages_.size() - zero_count_, std::memory_order_relaxed);
    zero_count_ = 0;
    pages_.clear();
    local_.clear();
    remote_.clear();
  }

  MemoryFill& fill_;
  /** Of the batch that is being written. */
  uint64_t first_ = 0;
  const size_t extent_bytes_;
  std::vector<uint8_t> room_;
  ExtentDecoder decoder_;
  std::vector<uint32_t> pages_;
  /** Number of zero pages in `pages_`. */
  size_t zero_count_ = 0;
  std::vector<iovec> local_;
  std::vector<iovec> remote_;
};

MemoryFill::MemoryFill(std::shared_ptr<CheckpointImage> image, Options options)
    : image_(std::move(image)),
      options_(std::move(options)),
      order_(*image_, options_.regions),
      batch_pieces_(order_.PiecesOf(kBatchPages)),
      stretch_pieces_(order_.PiecesOf(kStretchPages)) {}

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
  if (!options_.order) return order_.AddRest();
  for (PageRange range : *options_.order) order_.Add(range, InstallOrder::Zeros::kIncluded);
}

void MemoryFill::Work() {
  try {
    Writer writer(*this);
    const uint64_t end = order_.pieces().size();
    for (uint64_t first; (first = next_.fetch_add(stretch_pieces_)) < end;) {
      if (first == 0) ReadAhead(0, ahead_pieces());
      ReadAhead(first + ahead_pieces(), stretch_pieces_);
      WriteStretch(writer, first, std::min(first + stretch_pieces_, end));
    }
  } catch (...) {
    Fail(std::current_exception());
  }
}

void MemoryFill::WriteStretch(Writer& writer, uint64_t first, uint64_t end) {
  for (uint64_t at = first; at < end; at += batch_pieces_) {
    if (MustStop() || !writer.Write(at, std::min(at + batch_pieces_, end))) {
      cut_short_ = true;
      return;
    }
  }
}

uint64_t MemoryFill::ahead_pieces() const { return kReadAheadStretches * stretch_pieces_; }

void MemoryFill::ReadAhead(uint64_t first, uint64_t count) const {
  order_.ReadAhead(order_.PiecesFrom(first, count), options_.order ? Lane::kPredicted : Lane::kRest);
}

std::chrono::microseconds MemoryFill::LongestWait() const {
  const auto left = std::chrono::duration_cast<std::chrono::microseconds>(deadline_ - Clock::now());
  return std::clamp(left, std::chrono::microseconds(0), kLongestWait);
}

bool MemoryFill::MustStop() const { return stopped_ || Clock::now() >= deadline_; }

void MemoryFill::Fail(std::exception_ptr failure) {
  std::lock_guard lock(failing_);
  if (!failure_) failure_ = failure;
  stopped_ = true;
}

}  // namespace vmckpt
