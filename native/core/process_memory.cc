#include "core/process_memory.h"

#include <algorithm>
#include <cstddef>

#include "core/system_error.h"

namespace vmckpt {

namespace {

// The kernel's UIO_MAXIOV.
constexpr size_t kMaxVectors = 1024;

void Advance(iovec& vector, size_t bytes) {
  vector.iov_base = static_cast<char*>(vector.iov_base) + bytes;
  vector.iov_len -= bytes;
}

}  // namespace

void WriteProcessMemory(pid_t pid, std::vector<iovec> local, std::vector<iovec> remote) {
  size_t first = 0;
  while (first < local.size()) {
    size_t count = std::min(local.size() - first, kMaxVectors);
    ssize_t written = RetryOnSignal(
        [&] { return ::process_vm_writev(pid, &local[first], count, &remote[first], count, 0); });
    // A partial transfer stops at an element's boundary or inside one: go on exactly there.
    size_t left = static_cast<size_t>(Check(written, "process_vm_writev"));
    while (first < local.size() && left >= local[first].iov_len) left -= local[first++].iov_len;
    if (left > 0) {
      Advance(local[first], left);
      Advance(remote[first], left);
    }
  }
}

}  // namespace vmckpt
