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

/** VmFlags of proc(5), smaps: waits for missing pages; waits for writes to protected pages. */
constexpr std::string_view kWaitsForMissing = " um";
constexpr std::string_view kWaitsForWrites = " uw";

/** Regions of the process whose VmFlags contain `with` and not `without` (which may be empty). */
std::vector<AddressRange> RegisteredRegions(pid_t pid, std::string_view with, std::string_view without);

/** What a thread of the process has done that needs an answer. */
struct MemoryEvent {
  /** It has touched a missing page (and `range` is empty), or is about to give the pages of `range` back. */
  enum class Kind { kFault, kRemoval };
  Kind kind;
  AddressRange range;
};

/** Whether the range, as far as its two ends tell, waits for its missing pages at the userfaultfd. Installs
 * nothing. */
bool WaitsAt(int userfaultfd, AddressRange range, size_t page_bytes);

class Userfaultfd {
 public:
  /** Whether the process may give pages back that it has had (a balloon); see fault_removal.cc. */
  enum class Pages { kStay, kMayGo };

  explicit Userfaultfd(Fd fd, Pages pages = Pages::kStay) : fd_(std::move(fd)), pages_(pages) {}

  int get() const { return fd_.get(); }
  bool pages_may_go() const { return pages_ == Pages::kMayGo; }

  /** The descriptor is then as ReadEvent and poll(2) need it; so are its duplicates in other processes. */
  void MakeNonBlocking();

  /** Nothing when no event waits. Throws ENOTSUP at a fault on a page that is not missing. */
  std::optional<MemoryEvent> ReadEvent();

  enum class Outcome {
    kInstalled,
    /** Where pages may go: not all is installed, and nothing will be before the next event has been read. */
    kEventWaits,
    /** A huge page that is there already, or for which the system has none: Linux says the same of both. */
    kWasThere,
    /** The memory is not registered any more, or its process has ended. */
    kGone,
    /** The source could not be read. */
    kUnreadable,
  };

  enum class Waiters { kWoken, kLeft };

  /**
   * Installs pages; who waits for them is woken, or left to a Wake(). A page that is there already keeps its
   * contents, and its waiters are woken in any case. `page_bytes` is the size of the region's pages; all
   * lengths are multiples of it.
   */
  Outcome Copy(uint64_t to, const void* from, size_t bytes, size_t page_bytes, Waiters = Waiters::kWoken);
  Outcome Zero(uint64_t to, size_t bytes, size_t page_bytes, Waiters = Waiters::kWoken);
  Outcome Wake(uint64_t start, size_t bytes);

  /** Gives the memory back to its process: what is missing reads as zero from now on, without an event. */
  void Unregister(AddressRange range);

 private:
  template <typename Attempt>
  Outcome InstallAll(AddressRange range, size_t page_bytes, const char* syscall, Attempt attempt);

  Fd fd_;
  Pages pages_;
};

}  // namespace vmckpt
