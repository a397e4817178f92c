// Which pages of another process were written, by the kernel's soft-dirty bits (CONFIG_MEM_SOFT_DIRTY; the
// kernel's admin-guide/mm/soft-dirty.rst). There is one set of them for each process: whoever else clears
// them, spoils it. Where memory is huge pages, it tells 2 MiB at a time.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "core/fd.h"
#include "core/memory_region.h"
#include "core/page_runs.h"

namespace vmckpt {

class SoftDirty {
 public:
  /** Of regions that are ascending in page and address. */
  SoftDirty(pid_t pid, std::vector<MemoryRegion> regions);

  /** No page counts as written from now on. */
  void Arm();

  /** Ascending, neighbours joined. */
  PageRuns Look(PageRange within) const;

  /** The same of all; they count as unwritten from now on. What is written meanwhile is lost. */
  PageRuns Take();

 private:
  /** Calls `visit(page, entry)` with the page's number and its entry of pagemap. */
  template <typename Visit>
  void ForEach(PageRange within, Visit visit) const;
  void Clear();

  Fd pagemap_;
  Fd clear_refs_;
  std::vector<MemoryRegion> regions_;
  PageRange all_;
  /** Of each page from 0: it was there, and no zero page, at the last Arm() or Take(). One that has gone
   * since reads as zero. */
  std::vector<bool> own_;
};

/** Why this kernel does not have them, as a clause; empty when it does. */
std::string SoftDirtyProblem();

}  // namespace vmckpt
