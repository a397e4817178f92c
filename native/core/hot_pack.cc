#include "core/hot_pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>

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
  uint64_t file_count;
  uint64_t tables_checksum;
  uint64_t checksum;
};
static_assert(sizeof(Header) == 64);

/** A file that extents were copied from, and how many they are. */
struct Origin {
  uint8_t id[16];
  uint32_t extent_count;
  uint32_t reserved;
};
static_assert(sizeof(Origin) == 24);

/** Of each origin, ascending. */
struct Copy {
  uint32_t number;
  uint32_t stored_bytes;
  uint64_t offset;
};
static_assert(sizeof(Copy) == 16);

constexpr char kMagic[] = "VMCKPThp";
constexpr uint32_t kVersion = 2;
/** Reading what lies between two extents costs less than a second request. */
constexpr uint64_t kReadAheadGapBytes = 128 * 1024;

std::string Digits(const uint8_t (&id)[16]) {
  std::string digits;
  for (uint8_t byte : id) digits.append({"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]});
  return digits;
}

/** The file of the generation that has this id, or kNoFile. */
size_t FileWithId(const PageCatalog& catalog, const std::string& id) {
  const auto& files = catalog.facts().extent_files;
  const auto found = std::ranges::find(files, id, &ExtentFileFacts::id);
  return found == files.end() ? PageCatalog::kNoFile : found - files.begin();
}

template <typename Value>
std::vector<Value> Take(std::span<const uint8_t>& bytes, size_t count) {
  std::vector<Value> values(count);
  std::memcpy(values.data(), bytes.data(), count * sizeof(Value));
  bytes = bytes.subspan(count * sizeof(Value));
  return values;
}

}  // namespace

std::unique_ptr<HotPack> HotPack::Open(Fd file, const PageCatalog& catalog) {
  try {
    std::unique_ptr<HotPack> pack(new HotPack(std::move(file)));
    if (pack->ReadTables(catalog) && !pack->entries_.empty()) return pack;
  } catch (const SystemError&) {
    // It cannot be mapped.
  }
  return nullptr;
}

bool HotPack::ReadTables(const PageCatalog& catalog) {
  Header header;
  if (file_.size() < sizeof(header)) return false;
  if (!ReadGuarded([&] { std::memcpy(&header, file_.data(), sizeof(header)); })) return false;
  const bool is_ours = std::memcmp(header.magic, kMagic, sizeof(header.magic)) == 0 &&
                       header.version == kVersion && header.header_bytes == sizeof(header) &&
                       Checksum(&header, offsetof(Header, checksum)) == header.checksum;
  const uint64_t room = file_.size() - sizeof(header);
  if (!is_ours || header.file_count > kPlaceCount || header.extent_count > room / sizeof(Copy)) return false;
  const uint64_t table_bytes = header.file_count * sizeof(Origin) + header.extent_count * sizeof(Copy);
  if (table_bytes > room) return false;
  std::vector<uint8_t> tables(table_bytes);
  auto copy = [&] { std::memcpy(tables.data(), file_.data() + sizeof(header), table_bytes); };
  if (!ReadGuarded(copy) || Checksum(tables.data(), table_bytes) != header.tables_checksum) return false;
  std::span<const uint8_t> rest(tables);
  // Behind the last extent there is nothing: what the file takes on the disk is bounded.
  uint64_t end = sizeof(header) + table_bytes;
  for (const Origin& origin : Take<Origin>(rest, header.file_count)) {
    if (origin.extent_count > rest.size() / sizeof(Copy)) return false;
    const size_t file = FileWithId(catalog, Digits(origin.id));
    for (const Copy& copied : Take<Copy>(rest, origin.extent_count)) {
      if (copied.offset > file_.size() || copied.stored_bytes > file_.size() - copied.offset) return false;
      end = std::max(end, copied.offset + copied.stored_bytes);
      if (file == PageCatalog::kNoFile) continue;
      if (copied.number >= catalog.facts().extent_files[file].extent_count) return false;
      const auto extent = static_cast<uint32_t>(catalog.FirstExtentOf(file) + copied.number);
      entries_.push_back({.extent = extent, .stored_bytes = copied.stored_bytes, .offset = copied.offset});
    }
  }
  std::ranges::sort(entries_, {}, &Entry::extent);
  return rest.empty() && end == file_.size();
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

void HotPack::ReadAhead(std::span<const uint32_t> extents) const {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (uint32_t extent : extents)
    if (const Entry* entry = EntryOf(extent))
      ranges.emplace_back(entry->offset, entry->offset + entry->stored_bytes);
  std::ranges::sort(ranges);
  for (size_t at = 0; at < ranges.size();) {
    auto [start, end] = ranges[at++];
    while (at < ranges.size() && ranges[at].first <= end + kReadAheadGapBytes)
      end = std::max(end, ranges[at++].second);
    file_.ReadAhead(start, end - start);
  }
}

}  // namespace vmckpt
