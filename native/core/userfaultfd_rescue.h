// Frees a QEMU 7.2 whose background snapshot lost its receiver. In that version the failure path never
// removes the write protection that the snapshot put on guest memory, so every vCPU that writes hangs
// forever. Source: docs of userfaultfd(2), ioctl_userfaultfd(2), proc(5) (smaps, VmFlags).
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace vmckpt {

struct RescueResult {
  /** userfaultfds found in the process. */
  size_t descriptors;
  /** Write-protected regions that were released. */
  size_t regions;
};

/**
 * Removes the write protection, wakes the waiters and unregisters every region that is registered for write
 * protection only. Leaves regions alone that also wait for missing pages: they belong to a post-copy restore,
 * and their missing pages would silently read as zeros. Needs the right to ptrace the process.
 */
RescueResult RescueUserfaultfd(pid_t pid);

}  // namespace vmckpt
