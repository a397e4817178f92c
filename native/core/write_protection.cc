#include "core/write_protection.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <exception>
#include <thread>
#include <utility>

#include "core/process_memory.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

// linux/userfaultfd.h and linux/fs.h, newer than the headers of the systems that we build on.
constexpr int kUserModeOnly = 1;
constexpr uint64_t kFeatureHugeAndShared = 1 << 12;
constexpr uint64_t kFeatureUnpopulated = 1 << 13;
constexpr uint64_t kFeatureAsync = 1 << 15;

struct PageRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};

struct ScanArguments {
  uint64_t bytes;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  /** Out: where the next call has to begin. */
  uint64_t walk_end;
  uint64_t regions;
  uint64_t region_count;
  uint64_t max_pages;
  uint64_t inverted;
  uint64_t all_of;
  uint64_t any_of;
  uint64_t returned;
};

constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);
constexpr uint64_t kProtectMatching = 1 << 0;
constexpr uint64_t kRequireAsync = 1 << 1;
constexpr uint64_t kWritten = 1 << 1;
constexpr uint64_t kPresent = 1 << 3;
constexpr uint64_t kSwapped = 1 << 4;

struct Wanted {
  uint64_t inverted;
  uint64_t all_of;
};

/** The kernel has a shorter way for this, which is twice as fast. */
constexpr Wanted kWrittenPages{.inverted = 0, .all_of = kWritten};
/** Not even a mark of the protection: memory that the process has given back since. It reads as zero. */
constexpr Wanted kGivenBack{.inverted = kPresent | kSwapped, .all_of = kPresent | kSwapped};

/** What one page table maps, or one huge page. */
constexpr uint64_t kTableBytes = 2 << 20;
/** What a thread scans at a time. No huge page lies across its end: the kernel would split that. */
constexpr uint64_t kPartBytes = 64 << 20;
/** A thread starts in the time in which so much is scanned. */
constexpr size_t kMinPartsPerThread = 4;
constexpr size_t kMaxThreads = 4;

uint64_t EndOf(const MemoryRegion& region) { return region.address + region.page_count * kPageBytes; }

/** Parts that reach to the next multiple of `bytes`. */
std::vector<MemoryRegion> PartsOf(MemoryRegion rest, uint64_t bytes) {
  std::vector<MemoryRegion> parts;
  while (rest.page_count > 0) {
    MemoryRegion part = rest;
    part.page_count = std::min(rest.page_count, (bytes - rest.address % bytes) / kPageBytes);
    parts.push_back(part);
    rest.address += part.page_count * kPageBytes;
    rest.first_page += part.page_count;
    rest.page_count -= part.page_count;
  }
  return parts;
}

PageRuns ScanRegion(int pagemap, const MemoryRegion& region, Wanted wanted, uint64_t flags) {
  PageRuns found;
  std::array<PageRegion, 1024> regions;
  ScanArguments scan{.bytes = sizeof(scan),
                     .flags = flags,
                     .start = region.address,
                     .end = EndOf(region),
                     .walk_end = 0,
                     .regions = reinterpret_cast<uint64_t>(regions.data()),
                     .region_count = regions.size(),
                     .max_pages = 0,
                     .inverted = wanted.inverted,
                     .all_of = wanted.all_of,
                     .any_of = 0,
                     .returned = wanted.all_of};
  while (scan.start < scan.end) {
    const int count =
        Check(RetryOnSignal([&] { return ::ioctl(pagemap, kPagemapScan, &scan); }), "PAGEMAP_SCAN");
    for (int i = 0; i < count; i++) {
      const uint64_t first = region.first_page + (regions[i].start - region.address) / kPageBytes;
      Append(found, {.first = first, .count = (regions[i].end - regions[i].start) / kPageBytes});
    }
    // The kernel leaves walk_end behind in a call that reaches the end, where it has filled its own buffer
    // before.
    if (static_cast<size_t>(count) < regions.size()) break;
    scan.start = std::max<uint64_t>(scan.walk_end, regions.back().end);
  }
  return found;
}

/** Under KVM, renewing a protection unmaps from the guest all that is scanned for it: so no more is than has
 * to be. */
PageRuns TakeRegion(int pagemap, const MemoryRegion& region, Wanted wanted) {
  PageRuns taken;
  const PageRuns seen = ScanRegion(pagemap, region, wanted, kRequireAsync);
  auto next = seen.begin();
  for (const MemoryRegion& table : PartsOf(region, kTableBytes)) {
    while (next != seen.end() && next->first + next->count <= table.first_page) ++next;
    if (next == seen.end()) break;
    if (next->first >= table.first_page + table.page_count) continue;
    for (const PageRange& run : ScanRegion(pagemap, table, wanted, kRequireAsync | kProtectMatching))
      Append(taken, run);
  }
  return taken;
}

struct ScanOptions {
  /** Renews the protection of what is told. */
  bool takes = false;
  /** Tells of memory that was given back as well. */
  bool has_given_back = true;
};

/** Scans in several threads. */
class Scan {
 public:
  Scan(int pagemap, const std::vector<MemoryRegion>& regions, ScanOptions options)
      : pagemap_(pagemap), options_(options) {
    for (const MemoryRegion& region : regions)
      for (const MemoryRegion& part : PartsOf(region, kPartBytes)) parts_.push_back({.region = part});
  }

  PageRuns Run() {
    {
      std::vector<std::jthread> helpers;
      while (helpers.size() + 1 < ThreadCount()) helpers.emplace_back([this] { ScanParts(); });
      ScanParts();
    }
    if (failure_) std::rethrow_exception(failure_);
    PageRuns all;
    for (const Part& part : parts_) {
      for (const PageRange& run : United(part.written, part.given_back)) Append(all, run);
    }
    return all;
  }

 private:
  struct Part {
    MemoryRegion region;
    PageRuns written = {};
    PageRuns given_back = {};
  };

  size_t ThreadCount() const {
    const size_t processors = std::thread::hardware_concurrency();
    return std::min({processors, kMaxThreads, parts_.size() / kMinPartsPerThread});
  }

  void ScanParts() noexcept {
    for (size_t at = next_++; at < parts_.size(); at = next_++) {
      try {
        ScanPart(parts_[at]);
      } catch (...) {
        if (!has_failed_.exchange(true)) failure_ = std::current_exception();
      }
    }
  }

  void ScanPart(Part& part) {
    part.written = PagesIn(part.region, kWrittenPages);
    if (options_.has_given_back) part.given_back = PagesIn(part.region, kGivenBack);
  }

  PageRuns PagesIn(const MemoryRegion& region, Wanted wanted) const {
    return options_.takes ? TakeRegion(pagemap_, region, wanted)
                          : ScanRegion(pagemap_, region, wanted, kRequireAsync);
  }

  int pagemap_;
  ScanOptions options_;
  std::vector<Part> parts_;
  std::atomic<size_t> next_ = 0;
  std::atomic<bool> has_failed_ = false;
  /** The first. */
  std::exception_ptr failure_;
};

/** Repeats what the kernel asks to have repeated, because the memory map is changing at this moment. */
void Request(int userfaultfd, unsigned long request, void* argument, const char* name) {
  int result;
  do {
    result = ::ioctl(userfaultfd, request, argument);
  } while (result == -1 && (errno == EAGAIN || errno == EINTR));
  Check(result, name);
}

void RequestApi(int userfaultfd) {
  uffdio_api api{.api = UFFD_API,
                 .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | kFeatureHugeAndShared | kFeatureUnpopulated |
                             kFeatureAsync,
                 .ioctls = 0};
  Request(userfaultfd, UFFDIO_API, &api, "UFFDIO_API");
}

}  // namespace

WriteProtection::WriteProtection(Fd userfaultfd, pid_t pid, std::vector<MemoryRegion> regions)
    : userfaultfd_(std::move(userfaultfd)), pagemap_(OpenPagemap(pid)), regions_(std::move(regions)) {}

void WriteProtection::Register() {
  RequestApi(userfaultfd_.get());
  for (const MemoryRegion& region : regions_) {
    uffdio_register what{.range = {.start = region.address, .len = EndOf(region) - region.address},
                         .mode = UFFDIO_REGISTER_MODE_WP,
                         .ioctls = 0};
    Request(userfaultfd_.get(), UFFDIO_REGISTER, &what, "UFFDIO_REGISTER");
  }
}

void WriteProtection::Arm() {
  for (const MemoryRegion& region : regions_) {
    uffdio_writeprotect protect{.range = {.start = region.address, .len = EndOf(region) - region.address},
                                .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    Request(userfaultfd_.get(), UFFDIO_WRITEPROTECT, &protect, "UFFDIO_WRITEPROTECT");
  }
}

PageRuns WriteProtection::Look(PageRange within) const {
  return Scan(pagemap_.get(), Clipped(regions_, within), {}).Run();
}

PageRuns WriteProtection::LookForWrites() const {
  return Scan(pagemap_.get(), regions_, {.has_given_back = false}).Run();
}

PageRuns WriteProtection::Take() { return Scan(pagemap_.get(), regions_, {.takes = true}).Run(); }

std::string WriteProtectionProblem() {
  Fd userfaultfd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly)));
  if (!userfaultfd) return std::string("userfaultfd(2) does not work here: ") + std::strerror(errno);
  try {
    RequestApi(userfaultfd.get());
  } catch (const SystemError&) {
    return "the kernel has no asynchronous write protection (Linux 6.7 has it)";
  }
  Fd pagemap = OpenPagemap(::getpid());
  ScanArguments nothing{};
  nothing.bytes = sizeof(nothing);
  if (::ioctl(pagemap.get(), kPagemapScan, &nothing) == -1 && errno == ENOTTY)
    return "the kernel has no PAGEMAP_SCAN (Linux 6.7 has it)";
  return "";
}

}  // namespace vmckpt
