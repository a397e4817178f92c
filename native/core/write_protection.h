// Which pages of another process were written, by the kernel's asynchronous write protection: it lifts the
// protection of a page at the first write by itself, nobody has to answer, and a scan of the page tables
// finds the pages that have lost theirs. ioctl_userfaultfd(2), PAGEMAP_SCAN in the kernel's
// admin-guide/mm/pagemap.rst (Linux 6.7).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "core/fd.h"
#include "core/memory_region.h"
#include "core/page_runs.h"

namespace vmckpt {

/** The protection ends with the last duplicate of the userfaultfd. */
class WriteProtection {
 public:
  /** Of regions that are ascending in page and address. Changes nothing yet. */
  WriteProtection(Fd userfaultfd, pid_t pid, std::vector<MemoryRegion> regions);

  /** Once for a userfaultfd. Throws SystemError: EBUSY where another one has the memory, EINVAL where it
   * cannot be. */
  void Register();

  /** No page counts as written from now on. */
  void Arm();

  /** Ascending, neighbours joined. */
  PageRuns Look(PageRange within) const;

  /** Of all, but what was given back is not told: a third of the time. */
  PageRuns LookForWrites() const;

  /** As Look() of all; they count as unwritten from now on. */
  PageRuns Take();

 private:
  Fd userfaultfd_;
  Fd pagemap_;
  std::vector<MemoryRegion> regions_;
};

/** Why this kernel does not have it, as a clause; empty when it does. */
std::string WriteProtectionProblem();

}  // namespace vmckpt
