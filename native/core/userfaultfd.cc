#include "core/userfaultfd.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "core/pidfd.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

// Exact: newer QEMU also holds /dev/userfaultfd, which is not a userfaultfd.
constexpr std::string_view kUserfaultfdLink = "anon_inode:[userfaultfd]";

std::string ProcPath(pid_t pid, const char* entry) { return "/proc/" + std::to_string(pid) + "/" + entry; }

bool IsUserfaultfd(int directory, const char* name) {
  char target[64];
  ssize_t length = ::readlinkat(directory, name, target, sizeof(target));
  return length > 0 && std::string_view(target, length) == kUserfaultfdLink;
}

/** What an ioctl that stopped early means. Wakes nobody. */
std::optional<Userfaultfd::Outcome> FinalOutcome(int error, const char* syscall) {
  switch (error) {
    case EEXIST:
    case EAGAIN:
    case EINTR:
      return std::nullopt;
    case ENOENT:
    case ESRCH:
      return Userfaultfd::Outcome::kGone;
    case EFAULT:
      return Userfaultfd::Outcome::kUnreadable;
    default:
      throw SystemError(error, syscall);
  }
}

}  // namespace

std::vector<Fd> TakeUserfaultfds(pid_t pid) {
  Fd pidfd = PidfdOpen(pid);
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(ProcPath(pid, "fd").c_str()), ::closedir);
  if (!directory) throw SystemError(errno, "opendir");
  std::vector<Fd> taken;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (IsUserfaultfd(::dirfd(directory.get()), entry->d_name))
      taken.push_back(PidfdGetfd(pidfd.get(), std::atoi(entry->d_name)));
  }
  return taken;
}

std::vector<AddressRange> RegisteredRegions(pid_t pid, std::string_view with, std::string_view without) {
  std::unique_ptr<FILE, int (*)(FILE*)> smaps(std::fopen(ProcPath(pid, "smaps").c_str(), "re"), std::fclose);
  if (!smaps) throw SystemError(errno, "open");
  std::vector<AddressRange> regions;
  AddressRange current{};
  char* line = nullptr;
  size_t capacity = 0;
  ssize_t length;
  while ((length = ::getline(&line, &capacity, smaps.get())) != -1) {
    AddressRange next;
    std::string_view text(line, length);
    if (text.starts_with("VmFlags:")) {
      bool excluded = !without.empty() && text.find(without) != text.npos;
      if (text.find(with) != text.npos && !excluded) regions.push_back(current);
    } else if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &next.start, &next.end) == 2) {
      current = next;
    }
  }
  std::free(line);
  return regions;
}

std::optional<uint64_t> Userfaultfd::ReadFault() {
  for (;;) {
    uffd_msg message;
    ssize_t length = ::read(fd_.get(), &message, sizeof(message));
    if (length == sizeof(message)) {
      // A copy: the struct is packed.
      uint64_t address = message.arg.pagefault.address;
      if (message.event == UFFD_EVENT_PAGEFAULT) return address;
      continue;
    }
    if (length == -1 && errno == EINTR) continue;
    if (length == -1 && errno != EAGAIN) throw SystemError(errno, "read");
    return std::nullopt;
  }
}

/**
 * Repeats `attempt` from where the kernel stopped. It takes the bytes done so far and stores in `progress`
 * what the kernel answers: bytes installed by this call, or a negative error.
 */
template <typename Attempt>
Userfaultfd::Outcome Userfaultfd::InstallAll(AddressRange range, size_t page_bytes, const char* syscall,
                                             Attempt attempt) {
  uint64_t next = range.start;
  while (next < range.end) {
    int64_t progress = 0;
    if (attempt(next, &progress) == 0) return Outcome::kInstalled;
    int error = errno;
    if (progress > 0) {
      next += progress;
    } else if (error == EEXIST) {
      Wake(next, page_bytes);
      next += page_bytes;
    } else if (auto outcome = FinalOutcome(error, syscall)) {
      return *outcome;
    } else {
      ::sched_yield();
    }
  }
  return Outcome::kInstalled;
}

Userfaultfd::Outcome Userfaultfd::Copy(uint64_t to, const void* from, size_t bytes, size_t page_bytes) {
  AddressRange range{.start = to, .end = to + bytes};
  return InstallAll(range, page_bytes, "UFFDIO_COPY", [&](uint64_t next, int64_t* progress) {
    uint64_t source = reinterpret_cast<uint64_t>(from) + (next - to);
    uffdio_copy copy{.dst = next, .src = source, .len = range.end - next, .mode = 0, .copy = 0};
    int result = ::ioctl(fd_.get(), UFFDIO_COPY, &copy);
    *progress = copy.copy;
    return result;
  });
}

Userfaultfd::Outcome Userfaultfd::Zero(uint64_t to, size_t bytes, size_t page_bytes) {
  AddressRange range{.start = to, .end = to + bytes};
  return InstallAll(range, page_bytes, "UFFDIO_ZEROPAGE", [&](uint64_t next, int64_t* progress) {
    uffdio_zeropage zero{.range = {.start = next, .len = range.end - next}, .mode = 0, .zeropage = 0};
    int result = ::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &zero);
    *progress = zero.zeropage;
    return result;
  });
}

Userfaultfd::Outcome Userfaultfd::Wake(uint64_t start, size_t bytes) {
  uffdio_range range{.start = start, .len = bytes};
  while (::ioctl(fd_.get(), UFFDIO_WAKE, &range) == -1)
    if (auto outcome = FinalOutcome(errno, "UFFDIO_WAKE")) return *outcome;
  return Outcome::kInstalled;
}

}  // namespace vmckpt
