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

class Userfaultfd {
 public:
  explicit Userfaultfd(Fd fd) : fd_(std::move(fd)) {}

  int get() const { return fd_.get(); }

  /** Address of the next fault on a missing page; nothing when no event waits. The descriptor is
   * non-blocking. */
  std::optional<uint64_t> ReadFault();

  enum class Outcome {
    kInstalled,
    /** The memory is not registered any more, or its process has ended. */
    kGone,
    /** The source could not be read. */
    kUnreadable,
  };

  /**
   * Installs pages and wakes who waits for them. A page that is there already keeps its contents, and its
   * waiters are woken as well. `page_bytes` is the size of the region's pages; all lengths are multiples of
   * it.
   */
  Outcome Copy(uint64_t to, const void* from, size_t bytes, size_t page_bytes);
  Outcome Zero(uint64_t to, size_t bytes, size_t page_bytes);
  Outcome Wake(uint64_t start, size_t bytes);

 private:
  template <typename Attempt>
  Outcome InstallAll(AddressRange range, size_t page_bytes, const char* syscall, Attempt attempt);

  Fd fd_;
};

}  // namespace vmckpt
