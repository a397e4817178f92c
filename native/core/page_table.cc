#include "core/page_table.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "core/system_error.h"

namespace vmckpt {

namespace {

constexpr size_t kHeaderBytes = 16384;
constexpr uint64_t kMagic = 0x31656c6261745056;
constexpr uint32_t kNoBlock = UINT32_MAX;

static_assert(std::atomic<uint64_t>::is_always_lock_free, "the table is shared between processes");

}  // namespace

struct PageTable::Header {
  uint64_t magic;
  uint64_t page_count;
  std::atomic<uint32_t> requested_block;
  std::atomic<uint32_t> stream_phase;
  TransferCounters counters;
  LatencyHistogram fault_times;
  // After the fields of older tables, where it is 0.
  StarvationCounters starvation;
};

namespace {

/** 16 linear steps for each power of two; below 16 every value has its own bucket. */
size_t BucketOf(uint64_t value) {
  if (value < 16) return value;
  int exponent = std::bit_width(value) - 5;
  return 16 * static_cast<size_t>(exponent + 1) + ((value >> exponent) & 15);
}

uint64_t UpperBoundOf(size_t bucket) {
  if (bucket < 16) return bucket;
  int exponent = static_cast<int>(bucket / 16) - 1;
  return ((16 + bucket % 16 + 1) << exponent) - 1;
}

}  // namespace

void LatencyHistogram::Record(uint64_t nanoseconds) {
  buckets_[BucketOf(nanoseconds)].fetch_add(1, std::memory_order_relaxed);
  count_.fetch_add(1, std::memory_order_relaxed);
  total_.fetch_add(nanoseconds, std::memory_order_relaxed);
  uint64_t max = max_.load(std::memory_order_relaxed);
  while (nanoseconds > max && !max_.compare_exchange_weak(max, nanoseconds, std::memory_order_relaxed)) {
  }
}

uint64_t LatencyHistogram::Quantile(double quantile) const {
  auto wanted = static_cast<uint64_t>(quantile * static_cast<double>(count()));
  uint64_t below = 0;
  for (size_t bucket = 0; bucket < kBuckets; bucket++) {
    below += buckets_[bucket].load(std::memory_order_relaxed);
    if (below > wanted) return std::min(UpperBoundOf(bucket), max());
  }
  return max();
}

PageTable PageTable::Create(uint64_t page_count) {
  static_assert(sizeof(Header) <= kHeaderBytes);
  Fd memfd(Check(::memfd_create("vmckpt-page-table", MFD_CLOEXEC), "memfd_create"));
  size_t bytes = kHeaderBytes + page_count;
  Check(::ftruncate(memfd.get(), static_cast<off_t>(bytes)), "ftruncate");
  PageTable table(std::move(memfd), bytes);
  // Everything else is zero.
  table.header_->page_count = page_count;
  table.header_->requested_block = kNoBlock;
  table.header_->magic = kMagic;
  return table;
}

PageTable PageTable::Adopt(Fd memfd, uint64_t page_count) {
  struct stat status;
  Check(::fstat(memfd.get(), &status), "fstat");
  size_t bytes = kHeaderBytes + page_count;
  if (static_cast<uint64_t>(status.st_size) != bytes) throw SystemError(EINVAL, "mmap");
  PageTable table(std::move(memfd), bytes);
  if (table.header_->magic != kMagic || table.page_count() != page_count) throw SystemError(EINVAL, "mmap");
  return table;
}

PageTable::PageTable(Fd memfd, size_t bytes) : memfd_(std::move(memfd)), bytes_(bytes) {
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd_.get(), 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap");
  header_ = static_cast<Header*>(mapped);
  states_ = reinterpret_cast<std::atomic<PageState>*>(static_cast<char*>(mapped) + kHeaderBytes);
}

PageTable::PageTable(PageTable&& other) noexcept
    : memfd_(std::move(other.memfd_)),
      bytes_(other.bytes_),
      header_(std::exchange(other.header_, nullptr)),
      states_(other.states_) {}

PageTable::~PageTable() {
  if (header_ != nullptr) ::munmap(header_, bytes_);
}

uint64_t PageTable::page_count() const { return header_->page_count; }

std::optional<PageState> PageTable::Claim(uint64_t page, bool withheld_too) {
  PageState state = StateOf(page);
  while (IsClaimable(state) && (withheld_too || state != PageState::kWithheld)) {
    if (states_[page].compare_exchange_weak(state, PageState::kInFlight, std::memory_order_acq_rel))
      return state;
  }
  return std::nullopt;
}

void PageTable::Plan(uint64_t first, uint64_t count, PageState state) {
  for (uint64_t page = first; page < std::min(first + count, page_count()); page++) {
    PageState absent = PageState::kAbsent;
    states_[page].compare_exchange_strong(absent, state, std::memory_order_acq_rel);
  }
}

void PageTable::MarkInstalled(uint64_t first, std::span<const uint8_t> presence) {
  for (size_t i = 0; i < presence.size() && first + i < page_count(); i++)
    if (presence[i] != 0) Set(first + i, PageState::kInstalled);
}

void PageTable::ForgetClaims() {
  for (uint64_t page = 0; page < page_count(); page++) {
    const PageState state = StateOf(page);
    if (state == PageState::kInFlight || state == PageState::kFailed || state == PageState::kStarving)
      Set(page, PageState::kAbsent);
  }
}

TransferCounters& PageTable::counters() { return header_->counters; }
LatencyHistogram& PageTable::fault_times() { return header_->fault_times; }
StarvationCounters& PageTable::starvation() { return header_->starvation; }
std::atomic<uint32_t>& PageTable::requested_block() { return header_->requested_block; }
std::atomic<uint32_t>& PageTable::stream_phase() { return header_->stream_phase; }

}  // namespace vmckpt
