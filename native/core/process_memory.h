// Writes into the memory of another process, which must be stoppable by ptrace(2) for us.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace vmckpt {

/**
 * Copies local[i] to remote[i] (equal lengths, at most IOV_MAX of them) of process `pid`;
 * process_vm_writev(2). The vectors are used up. Throws SystemError: EPERM without the right to ptrace,
 * EFAULT where the process has no writable memory or we have no readable one, ESRCH.
 */
void WriteProcessMemory(pid_t pid, std::span<iovec> local, std::span<iovec> remote);

/**
 * For each of the pages from `address` on 1 if the process has it, in memory or swapped out: pagemap of
 * proc(5). Needs the right to read the process.
 */
std::vector<uint8_t> PresentPages(pid_t pid, uint64_t address, size_t page_count);

}  // namespace vmckpt
