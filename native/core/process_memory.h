// Writes into the memory of another process, which we must be allowed to ptrace(2).
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace vmckpt {

/**
 * Copies local[i] to remote[i] (equal lengths, at most IOV_MAX of them) of process `pid` with
 * process_vm_writev(2). Consumes the vectors. Throws SystemError: EPERM without the right to ptrace, EFAULT
 * where the process has no writable or we have no readable memory, ESRCH.
 */
void WriteProcessMemory(pid_t pid, std::span<iovec> local, std::span<iovec> remote);

/**
 * For each page from `address` on: 1 if the process has it, in memory or swapped out (pagemap of proc(5)).
 * Needs the right to read the process.
 */
std::vector<uint8_t> PresentPages(pid_t pid, uint64_t address, size_t page_count);

}  // namespace vmckpt
