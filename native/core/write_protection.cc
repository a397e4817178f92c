#include "core/write_protection.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
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

constexpr Wanted kWrittenPages{.inverted = 0, .all_of = kWritten};
/** Not even a mark of the protection: memory that the process has given back since. It reads as zero. */
constexpr Wanted kGivenBack{.inverted = kPresent | kSwapped, .all_of = kPresent | kSwapped};

uint64_t EndOf(const MemoryRegion& region) { return region.address + region.page_count * kPageBytes; }

void ScanRegion(int pagemap, const MemoryRegion& region, Wanted wanted, uint64_t flags, PageRuns& found) {
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
    if (static_cast<size_t>(count) < regions.size()) return;
    scan.start = std::max<uint64_t>(scan.walk_end, regions.back().end);
  }
}

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

PageRuns WriteProtection::Look() const { return Changed(Scan::kLook); }

PageRuns WriteProtection::Take() { return Changed(Scan::kTake); }

PageRuns WriteProtection::Changed(Scan scan) const {
  const uint64_t flags = scan == Scan::kTake ? kProtectMatching | kRequireAsync : kRequireAsync;
  PageRuns written, given_back;
  for (const MemoryRegion& region : regions_) {
    ScanRegion(pagemap_.get(), region, kWrittenPages, flags, written);
    ScanRegion(pagemap_.get(), region, kGivenBack, flags, given_back);
  }
  return United(written, given_back);
}

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
