#include "core/page_reader.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/checksum.h"
#include "core/format.h"
#include "core/page.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** Read at once: what a processor's own cache holds, and few enough that the reading is well worth a system
 * call. */
constexpr size_t kBatchPages = 64;

class Reader {
 public:
  Reader(pid_t pid, const PageReading& reading) : pid_(pid), reading_(reading) {}

  size_t ReadAll() {
    for (const PlacedPages& run : reading_.runs) {
      for (uint64_t done = 0; done < run.count;) {
        const uint64_t count = std::min<uint64_t>(run.count - done, kBatchPages - batch_pages_);
        Add({.address = run.address + done * kPageBytes, .count = count});
        done += count;
      }
    }
    ReadBatch();
    return stored_;
  }

 private:
  void Add(PlacedPages pages) {
    batch_[batch_length_++] = {.iov_base = reinterpret_cast<void*>(pages.address),
                               .iov_len = pages.count * kPageBytes};
    batch_pages_ += pages.count;
    if (batch_pages_ == kBatchPages) ReadBatch();
  }

  /** Behind what is stored already, and moved up where pages in front are not. */
  void ReadBatch() {
    uint8_t* const start = reading_.into + stored_ * kPageBytes;
    ReadInto(start);
    for (size_t i = 0; i < batch_pages_; i++, page_++) {
      const uint8_t* page = start + i * kPageBytes;
      if (!IsStored(page)) continue;
      uint8_t* to = reading_.into + stored_ * kPageBytes;
      if (to != page) std::memcpy(to, page, kPageBytes);
      stored_++;
    }
    batch_length_ = batch_pages_ = 0;
  }

  void ReadInto(uint8_t* start) {
    size_t left = batch_pages_ * kPageBytes;
    for (iovec* next = batch_.data(); left > 0;) {
      iovec local{.iov_base = start, .iov_len = left};
      const size_t count = static_cast<size_t>(batch_.data() + batch_length_ - next);
      const auto read = static_cast<size_t>(
          Check(RetryOnSignal([&] { return ::process_vm_readv(pid_, &local, 1, next, count, 0); }),
                "process_vm_readv"));
      start += read;
      left -= read;
      // A partial transfer ends at an element's boundary or inside one: go on exactly there.
      size_t passed = read;
      for (; left > 0 && passed >= next->iov_len; next++) passed -= next->iov_len;
      if (left > 0 && passed > 0) {
        next->iov_base = static_cast<char*>(next->iov_base) + passed;
        next->iov_len -= passed;
      }
    }
  }

  /** Judges the page and notes what it is. → whether its bytes are to be kept */
  bool IsStored(const uint8_t* page) {
    const bool repeats = std::memcmp(page, page + 1, kPageBytes - 1) == 0;
    reading_.fills[page_] = repeats ? page[0] : 0;
    const PageKind kind = !repeats ? PageKind::kData : page[0] == 0 ? PageKind::kZero : PageKind::kFill;
    const bool is_unchanged = reading_.checksums != nullptr && HasExpectedChecksum(page, repeats);
    reading_.kinds[page_] = is_unchanged ? kUnchangedPage : static_cast<uint8_t>(kind);
    return kind == PageKind::kData && !is_unchanged;
  }

  /** Notes the page's checksum. */
  bool HasExpectedChecksum(const uint8_t* page, bool repeats) {
    const Checksum128 checksum =
        repeats ? Checksum128{.low = page[0], .high = 1} : WideChecksum(page, kPageBytes);
    reading_.checksums[2 * page_] = checksum.low;
    reading_.checksums[2 * page_ + 1] = checksum.high;
    return checksum == Expected();
  }

  /** A pair of zeros, which is no page's, where nothing is. */
  Checksum128 Expected() const {
    if (reading_.expected == nullptr) return {.low = 0, .high = 0};
    return {.low = reading_.expected[2 * page_], .high = reading_.expected[2 * page_ + 1]};
  }

  pid_t pid_;
  const PageReading& reading_;
  std::array<iovec, kBatchPages> batch_;
  size_t batch_length_ = 0;
  size_t batch_pages_ = 0;
  /** Judged, and stored, so far. */
  size_t page_ = 0;
  size_t stored_ = 0;
};

}  // namespace

size_t ReadPages(pid_t pid, const PageReading& reading) { return Reader(pid, reading).ReadAll(); }

}  // namespace vmckpt
