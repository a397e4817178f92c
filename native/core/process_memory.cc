#include "core/process_memory.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>

#include "core/fd.h"
#include "core/page.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** For an entry of pagemap: the page is in memory, or swapped out. */
constexpr uint64_t kPresent = uint64_t{1} << 63 | uint64_t{1} << 62;

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
