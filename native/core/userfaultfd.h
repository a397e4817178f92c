// Memory of another process, filled from outside: ioctl_userfaultfd(2). Safe to use from several threads.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/fd.h"

namespace vmckpt {

struct AddressRange {
  uint64_t start;
  uint64_t end;
};

/** A duplicate of every userfaultfd that the process holds. Needs the right to ptrace it. */
std::vector<Fd> TakeUserfaultfds(pid_t pid);

/**
 * Numbers of userfaultfds in the process that nothing has been asked of, not even their version, and that
 * stay so for a while: one that is made for a use is asked at once.
 */
std::vector<int> UnusedUserfaultfds(pid_t pid);

/** Whether the descriptor, of this process, is one. */
bool IsUserfaultfd(int fd);

/** VmFlags of smaps, proc(5): waits for missing pages; waits for writes to protected pages. */
constexpr std::string_view kWaitsForMissing = " um";
constexpr std::string_view kWaitsForWrites = " uw";

/** Regions of the process whose VmFlags contain `with` and not `without` (which may be empty). */
std::vector<AddressRange> RegisteredRegions(pid_t pid, std::string_view with, std::string_view without);

/** An event in the process that needs an answer. */
struct MemoryEvent {
  /**
   * A thread has touched a missing page (`range` is empty), or is about to give the pages of `range` back.
   */
  enum class Kind { kFault, kRemoval };
  Kind kind;
  AddressRange range;
};

/**
 * Whether the range, judging by its two ends, waits for missing pages at the userfaultfd. Installs nothing.
 */
bool WaitsAt(int userfaultfd, AddressRange range, size_t page_bytes);

class Userfaultfd {
 public:
  /** Whether the process may give pages back that it has had (a balloon); see fault_removal.cc. */
  enum class Pages { kStay, kMayGo };

  explicit Userfaultfd(Fd fd, Pages pages = Pages::kStay) : fd_(std::move(fd)), pages_(pages) {}

  int get() const { return fd_.get(); }
  bool pages_may_go() const { return pages_ == Pages::kMayGo; }

  /** Makes the descriptor ready for ReadEvent and poll(2), including its duplicates in other processes. */
  void MakeNonBlocking();

  /** Nothing when no event waits. Throws ENOTSUP at a fault on a page that is not missing. */
  std::optional<MemoryEvent> ReadEvent();

  enum class Outcome {
    kInstalled,
    /** Pages may be removed: not all were installed, and none will be until the next event has been read. */
    kEventWaits,
    /** A huge page is already there, or the system has none: Linux returns the same error for both. */
    kWasThere,
    /** The memory is not registered any more, or its process has ended. */
    kGone,
    /** The source could not be read. */
    kUnreadable,
  };

  enum class Waiters { kWoken, kLeft };

  /**
   * Installs pages. Their waiters are woken, or left for Wake(). A page that is already there keeps its
   * contents, and its waiters are woken in any case. `page_bytes` is the region's page size; all lengths are
   * multiples of it.
   */
  Outcome Copy(uint64_t to, const void* from, size_t bytes, size_t page_bytes, Waiters = Waiters::kWoken);
  Outcome Zero(uint64_t to, size_t bytes, size_t page_bytes, Waiters = Waiters::kWoken);
  Outcome Wake(uint64_t start, size_t bytes);

  /** Gives the memory back to its process: missing pages read as zero from now on, without an event. */
  void Unregister(AddressRange range);

 private:
  template <typename Attempt>
  Outcome InstallAll(AddressRange range, size_t page_bytes, const char* syscall, Attempt attempt);

  Fd fd_;
  Pages pages_;
};

}  // namespace vmckpt
