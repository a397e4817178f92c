#include "core/userfaultfd_rescue.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <vector>

#include "core/system_error.h"
#include "core/userfaultfd.h"

namespace vmckpt {

namespace {

constexpr int kMaxBusyRetries = 1000;

std::vector<uffdio_range> AsIoctlRanges(const std::vector<AddressRange>& regions) {
  std::vector<uffdio_range> ranges;
  for (auto [start, end] : regions) ranges.push_back({.start = start, .len = end - start});
  return ranges;
}

/** Whether the request took effect; false when the region is not registered with this descriptor. */
bool Request(int userfaultfd, unsigned long request, void* argument, const char* name) {
  for (int attempt = 0;; attempt++) {
    if (::ioctl(userfaultfd, request, argument) == 0) return true;
    if (errno == ENOENT || errno == EINVAL) return false;
    // EAGAIN: the memory map is changing right now.
    if (errno != EINTR && (errno != EAGAIN || attempt == kMaxBusyRetries)) throw SystemError(errno, name);
  }
}

}  // namespace

RescueResult RescueUserfaultfd(pid_t pid) {
  std::vector<Fd> userfaultfds = TakeUserfaultfds(pid);
  if (userfaultfds.empty()) return {.descriptors = 0, .regions = 0};

  std::vector<AddressRange> regions = RegisteredRegions(pid, kWaitsForWrites, kWaitsForMissing);
  for (const Fd& userfaultfd : userfaultfds) {
    for (uffdio_range region : AsIoctlRanges(regions)) {
      uffdio_writeprotect lift{.range = region, .mode = 0};
      Request(userfaultfd.get(), UFFDIO_WRITEPROTECT, &lift, "UFFDIO_WRITEPROTECT");
      Request(userfaultfd.get(), UFFDIO_WAKE, &region, "UFFDIO_WAKE");
    }
  }
  // Last, because it wakes no thread. A region is released once, by the descriptor that registered it.
  size_t released = 0;
  for (uffdio_range region : AsIoctlRanges(regions)) {
    for (const Fd& userfaultfd : userfaultfds) {
      if (!Request(userfaultfd.get(), UFFDIO_UNREGISTER, &region, "UFFDIO_UNREGISTER")) continue;
      released++;
      break;
    }
  }
  return {.descriptors = userfaultfds.size(), .regions = released};
}

}  // namespace vmckpt
