#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/process_memory.h"
#include "core/refusal.h"
#include "core/signal_frame.h"
#include "core/system_error.h"
#include "core/userfaultfd.h"

namespace vmckpt {

namespace {

constexpr std::array<uint8_t, 3> kCallAndReturn = {0x0f, 0x05, 0xc3};
/** As every C library has it, and debuggers look for it: mov $15, %rax; syscall. */
constexpr std::array<uint8_t, 9> kRestore = {0x48, 0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};
constexpr size_t kReadBytes = 256 * 1024;

/** Those of the C library first, which has both; a QEMU maps many more. */
std::vector<AddressRange> ExecutableRanges(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/maps";
  std::unique_ptr<FILE, int (*)(FILE*)> maps(std::fopen(path.c_str(), "re"), std::fclose);
  if (!maps) throw SystemError(errno, "open");
  std::vector<AddressRange> ranges, others;
  char line[8192];
  while (std::fgets(line, sizeof(line), maps.get()) != nullptr) {
    AddressRange range;
    char rights[5];
    unsigned long offset, inode;
    const int fields = std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %lx %*s %lu", &range.start, &range.end,
                                   rights, &offset, &inode);
    // Of files only: what a process translates at run time (TCG) it also changes.
    if (fields != 5 || inode == 0 || std::string_view(rights) != "r-xp") continue;
    (std::string_view(line).find("/libc") != std::string_view::npos ? ranges : others).push_back(range);
  }
  ranges.insert(ranges.end(), others.begin(), others.end());
  return ranges;
}

uint64_t AddressOf(std::span<const uint8_t> pattern, std::span<const uint8_t> bytes, uint64_t address) {
  auto at = std::search(bytes.begin(), bytes.end(), pattern.begin(), pattern.end());
  return at == bytes.end() ? 0 : address + static_cast<uint64_t>(at - bytes.begin());
}

}  // namespace

BorrowedCode FindCode(pid_t pid) {
  BorrowedCode found{.call_and_return = 0, .restore = 0};
  std::vector<uint8_t> bytes(kReadBytes);
  for (auto [start, end] : ExecutableRanges(pid)) {
    // Neither pattern lies across two pieces in all of the places where it is.
    for (uint64_t at = start; at < end; at += kReadBytes) {
      const size_t length = ReadProcessMemory(pid, at, bytes.data(), std::min(kReadBytes, end - at));
      const std::span piece(bytes.data(), length);
      if (found.call_and_return == 0) found.call_and_return = AddressOf(kCallAndReturn, piece, at);
      if (found.restore == 0) found.restore = AddressOf(kRestore, piece, at);
      if (found.call_and_return != 0 && found.restore != 0) return found;
    }
  }
  throw Refusal("no-code", "its code has no place from which a signal handler returns");
}

}  // namespace vmckpt
