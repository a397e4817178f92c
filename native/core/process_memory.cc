#include "core/process_memory.h"

#include <fcntl.h>

#include <string>

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
    // A partial transfer stops between elements or inside one: continue exactly there.
    size_t left = static_cast<size_t>(Check(written, "process_vm_writev"));
    for (; !local.empty() && left >= local[0].iov_len; local = local.subspan(1), remote = remote.subspan(1))
      left -= local[0].iov_len;
    if (left > 0) {
      Advance(local[0], left);
      Advance(remote[0], left);
    }
  }
}

size_t ReadProcessMemory(pid_t pid, uint64_t address, void* into, size_t bytes) {
  iovec local{.iov_base = into, .iov_len = bytes};
  iovec remote{.iov_base = reinterpret_cast<void*>(address), .iov_len = bytes};
  ssize_t read = RetryOnSignal([&] { return ::process_vm_readv(pid, &local, 1, &remote, 1, 0); });
  if (read == -1 && errno == EFAULT) return 0;
  return static_cast<size_t>(Check(read, "process_vm_readv"));
}

Fd OpenPagemap(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  return Fd(Check(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open"));
}

std::vector<uint8_t> PresentPages(pid_t pid, uint64_t address, size_t page_count) {
  Fd pagemap = OpenPagemap(pid);
  std::vector<uint8_t> presence(page_count);
  ForEachPagemapEntry(pagemap.get(), address, page_count,
                      [&](size_t i, uint64_t entry) { presence[i] = (entry & kPagePresent) != 0; });
  return presence;
}

}  // namespace vmckpt
