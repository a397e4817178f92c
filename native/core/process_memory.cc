#include "core/process_memory.h"

#include <cstddef>

#include "core/system_error.h"

namespace vmckpt {

namespace {

void Advance(iovec& vector, size_t bytes) {
  vector.iov_base = static_cast<char*>(vector.iov_base) + bytes;
  vector.iov_len -= bytes;
}

}  // namespace

void WriteProcessMemory(pid_t pid, std::span<iovec> local, std::span<iovec> remote) {
  while (!local.empty()) {
    ssize_t written = RetryOnSignal([&] {
      return ::process_vm_writev(pid, local.data(), local.size(), remote.data(), remote.size(), 0);
    });
    // A partial transfer stops at an element's boundary or inside one: go on exactly there.
    size_t left = static_cast<size_t>(Check(written, "process_vm_writev"));
    for (; !local.empty() && left >= local[0].iov_len; local = local.subspan(1), remote = remote.subspan(1))
      left -= local[0].iov_len;
    if (left > 0) {
      Advance(local[0], left);
      Advance(remote[0], left);
    }
  }
}

}  // namespace vmckpt
