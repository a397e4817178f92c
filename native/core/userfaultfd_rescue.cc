#include "core/userfaultfd_rescue.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/pidfd.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

// Exact: newer QEMU also holds /dev/userfaultfd, which is not a userfaultfd.
constexpr std::string_view kUserfaultfdLink = "anon_inode:[userfaultfd]";
constexpr int kMaxBusyRetries = 1000;

std::string ProcPath(pid_t pid, const char* entry) { return "/proc/" + std::to_string(pid) + "/" + entry; }

bool IsUserfaultfd(int directory, const char* name) {
  char target[64];
  ssize_t length = ::readlinkat(directory, name, target, sizeof(target));
  return length > 0 && std::string_view(target, length) == kUserfaultfdLink;
}

std::vector<Fd> TakeUserfaultfds(pid_t pid, int pidfd) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(ProcPath(pid, "fd").c_str()), ::closedir);
  if (!directory) throw SystemError(errno, "opendir");
  std::vector<Fd> taken;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (IsUserfaultfd(::dirfd(directory.get()), entry->d_name))
      taken.push_back(PidfdGetfd(pidfd, std::atoi(entry->d_name)));
  }
  return taken;
}

/** VmFlags of a region: two letters each, "um" waits for missing pages, "uw" for writes to protected ones. */
bool IsWriteProtectedOnly(std::string_view flags) {
  return flags.find(" uw") != flags.npos && flags.find(" um") == flags.npos;
}

std::vector<uffdio_range> WriteProtectedRegions(pid_t pid) {
  std::unique_ptr<FILE, int (*)(FILE*)> smaps(std::fopen(ProcPath(pid, "smaps").c_str(), "re"), std::fclose);
  if (!smaps) throw SystemError(errno, "open");
  std::vector<uffdio_range> regions;
  uint64_t start = 0;
  uint64_t end = 0;
  char* line = nullptr;
  size_t capacity = 0;
  ssize_t length;
  while ((length = ::getline(&line, &capacity, smaps.get())) != -1) {
    uint64_t from, to;
    std::string_view text(line, length);
    if (text.starts_with("VmFlags:")) {
      if (IsWriteProtectedOnly(text)) regions.push_back({.start = start, .len = end - start});
    } else if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) {
      start = from;
      end = to;
    }
  }
  std::free(line);
  return regions;
}

/** Whether the request took effect; false when the region is not registered with this descriptor. */
bool Request(int userfaultfd, unsigned long request, void* argument, const char* name) {
  for (int attempt = 0;; attempt++) {
    if (::ioctl(userfaultfd, request, argument) == 0) return true;
    if (errno == ENOENT || errno == EINVAL) return false;
    // EAGAIN: the memory map is changing at this moment.
    if (errno != EINTR && (errno != EAGAIN || attempt == kMaxBusyRetries)) throw SystemError(errno, name);
  }
}

}  // namespace

RescueResult RescueUserfaultfd(pid_t pid) {
  Fd pidfd = PidfdOpen(pid);
  std::vector<Fd> userfaultfds = TakeUserfaultfds(pid, pidfd.get());
  if (userfaultfds.empty()) return {.descriptors = 0, .regions = 0};

  std::vector<uffdio_range> regions = WriteProtectedRegions(pid);
  for (const Fd& userfaultfd : userfaultfds) {
    for (uffdio_range& region : regions) {
      uffdio_writeprotect lift{.range = region, .mode = 0};
      Request(userfaultfd.get(), UFFDIO_WRITEPROTECT, &lift, "UFFDIO_WRITEPROTECT");
      Request(userfaultfd.get(), UFFDIO_WAKE, &region, "UFFDIO_WAKE");
    }
  }
  // Last, because it does not wake anybody. A region is released once, by the descriptor that registered it.
  size_t released = 0;
  for (uffdio_range& region : regions) {
    for (const Fd& userfaultfd : userfaultfds) {
      if (!Request(userfaultfd.get(), UFFDIO_UNREGISTER, &region, "UFFDIO_UNREGISTER")) continue;
      released++;
      break;
    }
  }
  return {.descriptors = userfaultfds.size(), .regions = released};
}

}  // namespace vmckpt
