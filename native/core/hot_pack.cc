#include "core/hot_pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "core/checksum.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  char algorithm[16];
  uint64_t extent_count;
  uint64_t tie;
  uint64_t table_checksum;
  uint64_t checksum;
};
static_assert(sizeof(Header) == 64);

constexpr char kMagic[] = "VMCKPThp";
constexpr uint32_t kVersion = 1;

}  // namespace

std::unique_ptr<HotPack> HotPack::Open(Fd file, uint64_t tie) {
  try {
    std::unique_ptr<HotPack> pack(new HotPack(std::move(file)));
    if (pack->ReadTable(tie)) return pack;
  } catch (const SystemError&) {
    // It cannot be mapped.
  }
  return nullptr;
}

bool HotPack::ReadTable(uint64_t tie) {
  Header header;
  if (file_.size() < sizeof(header)) return false;
  if (!ReadGuarded([&] { std::memcpy(&header, file_.data(), sizeof(header)); })) return false;
  const bool is_ours = std::memcmp(header.magic, kMagic, sizeof(header.magic)) == 0 &&
                       header.version == kVersion && header.header_bytes == sizeof(header) &&
                       Checksum(&header, offsetof(Header, checksum)) == header.checksum;
  if (!is_ours || header.tie != tie) return false;
  if (header.extent_count > (file_.size() - sizeof(header)) / sizeof(Entry)) return false;
  entries_.resize(header.extent_count);
  const size_t table_bytes = entries_.size() * sizeof(Entry);
  auto copy = [&] { std::memcpy(entries_.data(), file_.data() + sizeof(header), table_bytes); };
  if (!ReadGuarded(copy) || Checksum(entries_.data(), table_bytes) != header.table_checksum) return false;
  // Behind the last extent there is nothing: all of the file is read ahead.
  uint64_t end = sizeof(header) + table_bytes;
  for (const Entry& entry : entries_) {
    if (entry.offset > file_.size() || entry.stored_bytes > file_.size() - entry.offset) return false;
    end = std::max(end, entry.offset + entry.stored_bytes);
  }
  return end == file_.size() && std::ranges::is_sorted(entries_, {}, &Entry::extent);
}

const HotPack::Entry* HotPack::EntryOf(uint64_t extent) const {
  auto found = std::ranges::lower_bound(entries_, extent, {}, &Entry::extent);
  return found != entries_.end() && found->extent == extent ? &*found : nullptr;
}

std::optional<uint64_t> HotPack::Find(uint64_t extent, uint32_t stored_bytes) const {
  const Entry* entry = EntryOf(extent);
  if (entry == nullptr || entry->stored_bytes != stored_bytes) return std::nullopt;
  return entry->offset;
}

void HotPack::ReadAhead() const { file_.ReadAhead(0, file_.size()); }

}  // namespace vmckpt
