// Reads and writes the memory of another process, which we must be allowed to ptrace(2).
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/fd.h"
#include "core/page.h"
#include "core/system_error.h"

namespace vmckpt {

/**
 * Copies local[i] to remote[i] (equal lengths, at most IOV_MAX of them) of process `pid` with
 * process_vm_writev(2). Consumes the vectors. Throws SystemError: EPERM without the right to ptrace, EFAULT
 * where the process has no writable or we have no readable memory, ESRCH.
 */
void WriteProcessMemory(pid_t pid, std::span<iovec> local, std::span<iovec> remote);

/** Copies from one place of process `pid`. Returns how many bytes it has there, 0 where it has no memory. */
size_t ReadProcessMemory(pid_t pid, uint64_t address, void* into, size_t bytes);

Fd OpenPagemap(pid_t pid);

/** Of an entry of pagemap, proc(5): the page is in memory, or swapped out. */
constexpr uint64_t kPagePresent = uint64_t{1} << 63 | uint64_t{1} << 62;

/** Calls `visit(i, entry)` for each of the pages from `address` on. */
template <typename Visit>
void ForEachPagemapEntry(int pagemap, uint64_t address, size_t page_count, Visit visit) {
  std::array<uint64_t, 8192> entries;
  for (size_t done = 0; done < page_count;) {
    const size_t wanted = std::min(page_count - done, entries.size()) * sizeof(uint64_t);
    const auto offset = static_cast<off_t>((address / kPageBytes + done) * sizeof(uint64_t));
    const ssize_t length =
        Check(RetryOnSignal([&] { return ::pread(pagemap, entries.data(), wanted, offset); }), "pread");
    const size_t count = static_cast<size_t>(length) / sizeof(uint64_t);
    if (count == 0) throw SystemError(ENXIO, "pread");
    for (size_t i = 0; i < count; i++) visit(done + i, entries[i]);
    done += count;
  }
}

/**
 * For each page from `address` on: 1 if the process has it, in memory or swapped out (pagemap of proc(5)).
 * Needs the right to read the process.
 */
std::vector<uint8_t> PresentPages(pid_t pid, uint64_t address, size_t page_count);

}  // namespace vmckpt
