#include "core/userfaultfd.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "core/anonymous_memory.h"
#include "core/page.h"
#include "core/pidfd.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

// Compared as a whole: newer QEMU also holds /dev/userfaultfd, which is not a userfaultfd.
constexpr std::string_view kUserfaultfdLink = "anon_inode:[userfaultfd]";
constexpr std::chrono::milliseconds kUsedWithin{50};

std::string ProcPath(pid_t pid, const char* entry) { return "/proc/" + std::to_string(pid) + "/" + entry; }

bool IsUserfaultfd(int directory, const char* name) {
  char target[64];
  ssize_t length = ::readlinkat(directory, name, target, sizeof(target));
  return length > 0 && std::string_view(target, length) == kUserfaultfdLink;
}

std::vector<int> UserfaultfdsOf(pid_t pid) {
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(ProcPath(pid, "fd").c_str()), ::closedir);
  if (!directory) throw SystemError(errno, "opendir");
  std::vector<int> found;
  while (const dirent* entry = ::readdir(directory.get()))
    if (IsUserfaultfd(::dirfd(directory.get()), entry->d_name)) found.push_back(std::atoi(entry->d_name));
  return found;
}

/** Of a descriptor that is one: no other has its inode. 0 where it is not, or has been put to use. */
ino_t UnusedInode(pid_t pid, int fd) {
  const std::string number = std::to_string(fd);
  std::ifstream info(ProcPath(pid, "fdinfo/") + number);
  for (std::string line; std::getline(info, line);) {
    // Version, features that were asked for, features that there are.
    uint64_t features;
    if (std::sscanf(line.c_str(), "API:\t%*x:%" SCNx64 ":", &features) != 1 || features != 0) continue;
    struct stat status;
    return ::stat((ProcPath(pid, "fd/") + number).c_str(), &status) == 0 ? status.st_ino : 0;
  }
  return 0;
}

/** The meaning of an ioctl that stopped early. Wakes no thread. */
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

/** Nothing for events that need no answer. */
std::optional<MemoryEvent> EventOf(const uffd_msg& message) {
  constexpr uint64_t kOtherFaults = UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_MINOR;
  // Everything is copied: the struct is packed.
  switch (message.event) {
    case UFFD_EVENT_PAGEFAULT: {
      if ((message.arg.pagefault.flags & kOtherFaults) != 0)
        throw SystemError(ENOTSUP, "fault on a page that is not missing");
      uint64_t address = message.arg.pagefault.address;
      return MemoryEvent{.kind = MemoryEvent::Kind::kFault, .range = {.start = address, .end = address}};
    }
    case UFFD_EVENT_REMOVE:
    case UFFD_EVENT_UNMAP: {
      AddressRange range{.start = message.arg.remove.start, .end = message.arg.remove.end};
      return MemoryEvent{.kind = MemoryEvent::Kind::kRemoval, .range = range};
    }
    default:
      return std::nullopt;
  }
}

}  // namespace

std::vector<Fd> TakeUserfaultfds(pid_t pid) {
  Fd pidfd = PidfdOpen(pid);
  std::vector<Fd> taken;
  for (int fd : UserfaultfdsOf(pid)) taken.push_back(PidfdGetfd(pidfd.get(), fd));
  return taken;
}

std::vector<int> UnusedUserfaultfds(pid_t pid) {
  std::map<int, ino_t> unused;
  for (int fd : UserfaultfdsOf(pid))
    if (ino_t inode = UnusedInode(pid, fd); inode != 0) unused[fd] = inode;
  if (unused.empty()) return {};
  std::this_thread::sleep_for(kUsedWithin);
  std::vector<int> found;
  for (auto [fd, inode] : unused)
    if (UnusedInode(pid, fd) == inode) found.push_back(fd);
  return found;
}

bool IsUserfaultfd(int fd) {
  return IsUserfaultfd(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str());
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

/**
 * Tests with a copy from memory that may not be read: the kernel answers EFAULT where it would have installed
 * a page, and ENOENT where none is awaited. (smaps of proc(5) would tell as well, but takes 10 ms for a
 * QEMU.)
 */
bool WaitsAt(int userfaultfd, AddressRange range, size_t page_bytes) {
  AnonymousMemory unreadable(page_bytes);
  Check(::mprotect(unreadable.data(), page_bytes, PROT_NONE), "mprotect");
  const auto source = reinterpret_cast<uint64_t>(unreadable.data());
  auto waits = [&](uint64_t page) {
    uffdio_copy copy{.dst = page, .src = source, .len = page_bytes, .mode = 0, .copy = 0};
    int error;
    do {
      error = ::ioctl(userfaultfd, UFFDIO_COPY, &copy) == -1 ? errno : 0;
    } while (error == EAGAIN || error == EINTR);
    // ENOMEM: the kernel allocates a huge page before it fails to read the source.
    return error == EFAULT || error == EEXIST || error == ENOMEM;
  };
  return waits(range.start) && waits(range.end - page_bytes);
}

void Userfaultfd::MakeNonBlocking() {
  int flags = Check(::fcntl(fd_.get(), F_GETFL), "fcntl");
  Check(::fcntl(fd_.get(), F_SETFL, flags | O_NONBLOCK), "fcntl");
}

std::optional<MemoryEvent> Userfaultfd::ReadEvent() {
  for (;;) {
    uffd_msg message;
    ssize_t length = ::read(fd_.get(), &message, sizeof(message));
    if (length == sizeof(message)) {
      if (auto event = EventOf(message)) return event;
      continue;
    }
    if (length == -1 && errno == EINTR) continue;
    if (length == -1 && errno != EAGAIN) throw SystemError(errno, "read");
    return std::nullopt;
  }
}

/**
 * Repeats `attempt` from where the kernel stopped. It takes the remaining range, and stores in `progress` the
 * kernel's answer: bytes installed by this call, or a negative error.
 */
template <typename Attempt>
Userfaultfd::Outcome Userfaultfd::InstallAll(AddressRange range, size_t page_bytes, const char* syscall,
                                             Attempt attempt) {
  uint64_t next = range.start;
  uint64_t stride = range.end - range.start;
  while (next < range.end) {
    int64_t progress = 0;
    AddressRange left{.start = next, .end = std::min(next + stride, range.end)};
    if (attempt(left, &progress) == 0) {
      next = left.end;
      continue;
    }
    int error = errno;
    if (progress > 0) {
      next += progress;
    } else if (error == EEXIST) {
      Wake(next, page_bytes);
      if (page_bytes > kPageBytes) return Outcome::kWasThere;
      next += page_bytes;
    } else if (error == ENOENT && stride > page_bytes) {
      // The range may cross a border of two mappings, which no call may: continue page by page.
      stride = page_bytes;
    } else if (error == ENOENT && pages_may_go()) {
      // No longer mapped, or handed back: no thread can wait for it.
      next += page_bytes;
    } else if (error == EAGAIN && pages_may_go()) {
      return Outcome::kEventWaits;
    } else if (auto outcome = FinalOutcome(error, syscall)) {
      return *outcome;
    } else {
      ::sched_yield();
    }
  }
  return Outcome::kInstalled;
}

Userfaultfd::Outcome Userfaultfd::Copy(uint64_t to, const void* from, size_t bytes, size_t page_bytes,
                                       Waiters waiters) {
  const uint64_t mode = waiters == Waiters::kLeft ? UFFDIO_COPY_MODE_DONTWAKE : 0;
  AddressRange range{.start = to, .end = to + bytes};
  return InstallAll(range, page_bytes, "UFFDIO_COPY", [&](AddressRange left, int64_t* progress) {
    uint64_t source = reinterpret_cast<uint64_t>(from) + (left.start - to);
    uffdio_copy copy{.dst = left.start, .src = source, .len = left.end - left.start, .mode = mode, .copy = 0};
    int result = ::ioctl(fd_.get(), UFFDIO_COPY, &copy);
    *progress = copy.copy;
    return result;
  });
}

Userfaultfd::Outcome Userfaultfd::Zero(uint64_t to, size_t bytes, size_t page_bytes, Waiters waiters) {
  const uint64_t mode = waiters == Waiters::kLeft ? UFFDIO_ZEROPAGE_MODE_DONTWAKE : 0;
  AddressRange range{.start = to, .end = to + bytes};
  return InstallAll(range, page_bytes, "UFFDIO_ZEROPAGE", [&](AddressRange left, int64_t* progress) {
    uffdio_zeropage zero{
        .range = {.start = left.start, .len = left.end - left.start}, .mode = mode, .zeropage = 0};
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

void Userfaultfd::Unregister(AddressRange range) {
  uffdio_range whole{.start = range.start, .len = range.end - range.start};
  Check(::ioctl(fd_.get(), UFFDIO_UNREGISTER, &whole), "UFFDIO_UNREGISTER");
  // The kernel has woken all waiters, but before it was done: a thread that faulted in between (6.18, under
  // the lock of its mapping alone) would wait forever.
  Wake(range.start, range.end - range.start);
}

}  // namespace vmckpt
