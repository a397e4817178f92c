#include "core/process_memory.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "core/fd.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

// The kernel's UIO_MAXIOV.
constexpr size_t kMaxVectors = 1024;
constexpr size_t kPageBytes = 4096;
/** Of an entry of pagemap: the page is in memory, or swapped out. */
constexpr uint64_t kPresent = uint64_t{1} << 63 | uint64_t{1} << 62;

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

std::vector<uint8_t> PresentPages(pid_t pid, uint64_t address, size_t page_count) {
  std::string path = "/proc/" + std::to_string(pid) + "/pagemap";
  Fd pagemap(Check(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open"));
  std::vector<uint8_t> presence(page_count);
  std::array<uint64_t, 8192> entries;
  for (size_t done = 0; done < page_count;) {
    size_t wanted = std::min(page_count - done, entries.size()) * sizeof(uint64_t);
    auto offset = static_cast<off_t>((address / kPageBytes + done) * sizeof(uint64_t));
    ssize_t length =
        Check(RetryOnSignal([&] { return ::pread(pagemap.get(), entries.data(), wanted, offset); }), "pread");
    size_t count = static_cast<size_t>(length) / sizeof(uint64_t);
    if (count == 0) throw SystemError(ENXIO, "pread");
    for (size_t i = 0; i < count; i++) presence[done + i] = (entries[i] & kPresent) != 0;
    done += count;
  }
  return presence;
}

}  // namespace vmckpt
