#include "core/presence.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/system_error.h"

namespace vmckpt {

namespace {

constexpr char kMagic[] = "VMCKPTpr";
constexpr uint32_t kVersion = 1;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t block_bytes;
  uint64_t file_bytes;
};

}  // namespace

Presence::Presence(const Fd& file) : file_(file, SharedFile::Use::kRead) {
  Header header;
  if (file_.size() < kHeaderBytes) throw SystemError(EINVAL, "presence");
  std::memcpy(&header, file_.data(), sizeof(header));
  block_count_ = header.file_bytes / kBlockBytes + (header.file_bytes % kBlockBytes != 0);
  const bool is_right = std::memcmp(header.magic, kMagic, sizeof(header.magic)) == 0 &&
                        header.version == kVersion && header.block_bytes == kBlockBytes &&
                        block_count_ / 8 < file_.size() - kHeaderBytes + (block_count_ % 8 == 0);
  if (!is_right) throw SystemError(EINVAL, "presence");
}

bool Presence::Has(uint64_t offset, uint64_t bytes) const {
  const uint64_t end = std::min((offset + bytes + kBlockBytes - 1) / kBlockBytes, block_count_);
  for (uint64_t block = offset / kBlockBytes; block < end; block++) {
    const auto& bits = file_.At<uint8_t>(kHeaderBytes + block / 8);
    if ((bits.load(std::memory_order_acquire) >> block % 8 & 1) == 0) return false;
  }
  return true;
}

bool Presence::WasRefetched(uint64_t offset, uint32_t since) const {
  const uint32_t count = refetch_count();
  if (count - since > kRefetchSlots) return true;
  for (uint32_t at = since; at != count; at++)
    if (file_.At<uint64_t>(kRefetchesAt + at % kRefetchSlots * sizeof(uint64_t)).load() == offset)
      return true;
  return false;
}

}  // namespace vmckpt
