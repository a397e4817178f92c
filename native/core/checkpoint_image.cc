#include "core/checkpoint_image.h"

#include <sys/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "core/checksum.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

constexpr size_t kHeaderBytes = 4096;
constexpr size_t kChunkBytes = 64 * 1024;
constexpr size_t kPageEntryBytes = 8;
constexpr size_t kExtentRecordBytes = 32;
/** Where a record has its number of pages. */
constexpr size_t kPageCountAt = 12;
constexpr uint8_t kCodecRaw = 0;
constexpr uint8_t kCodecZstd = 1;
/** Reading what lies between two extents costs less than a second request. */
constexpr uint64_t kReadAheadGapExtents = 4;

std::string Number(uint64_t value) { return std::to_string(value); }

std::string Hex(uint64_t checksum) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, checksum);
  return text;
}

template <typename Value>
Value Load(const uint8_t* from) {
  Value value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

uint64_t ChunkCount(const IndexFile::Shape& shape) {
  uint64_t per_chunk = kChunkBytes / shape.entry_bytes;
  return (shape.entry_count + per_chunk - 1) / per_chunk;
}

}  // namespace

IndexFile::IndexFile(Fd file, const Shape& shape)
    : shape_(shape),
      file_(std::move(file)),
      checksums_(ChunkCount(shape)),
      chunks_(ChunkCount(shape) * kChunkBytes),
      loaded_(std::make_unique<std::atomic<bool>[]>(ChunkCount(shape))) {
  size_t table_bytes = checksums_.size() * sizeof(uint64_t);
  ReadExactly(checksums_.data(), table_bytes, kHeaderBytes + chunks_.size());
  uint64_t found = Checksum(checksums_.data(), table_bytes);
  if (found != shape.root) Damaged("the root is " + Hex(found) + ", " + Hex(shape.root) + " expected");
}

const uint8_t* IndexFile::At(uint64_t entry) {
  if (entry >= shape_.entry_count)
    Damaged("entry " + Number(entry) + " asked for, " + Number(shape_.entry_count) + " there");
  uint64_t offset = entry * shape_.entry_bytes;
  uint64_t chunk = offset / kChunkBytes;
  if (!loaded_[chunk].load(std::memory_order_acquire)) Load(chunk);
  return chunks_.data() + offset;
}

void IndexFile::Load(uint64_t chunk) {
  std::lock_guard lock(loading_);
  if (loaded_[chunk].load(std::memory_order_relaxed)) return;
  uint8_t* into = chunks_.data() + chunk * kChunkBytes;
  ReadExactly(into, kChunkBytes, kHeaderBytes + chunk * kChunkBytes);
  uint64_t found = Checksum(into, kChunkBytes);
  if (found != checksums_[chunk])
    Damaged("chunk " + Number(chunk) + " has the checksum " + Hex(found) + ", " + Hex(checksums_[chunk]) +
            " expected");
  loaded_[chunk].store(true, std::memory_order_release);
}

void IndexFile::ReadExactly(void* into, size_t bytes, uint64_t offset) {
  for (size_t done = 0; done < bytes;) {
    ssize_t length = RetryOnSignal(
        [&] { return ::pread(file_.get(), static_cast<char*>(into) + done, bytes - done, offset + done); });
    if (length == -1) Damaged(std::string("it cannot be read: ") + std::strerror(errno));
    if (length == 0) Damaged("it ends at " + Number(offset + done) + ", before " + Number(offset + bytes));
    done += length;
  }
}

void IndexFile::Damaged(const std::string& fault) const {
  throw DamagedImage(DamagedImage::Part::kIndex, shape_.label + ": " + fault);
}

CheckpointImage::CheckpointImage(ImageFiles files, const ImageFacts& facts)
    : facts_(facts),
      page_index_(std::move(files.page_index), {.label = facts.label + "/page-index",
                                                .entry_count = facts.page_count,
                                                .entry_bytes = kPageEntryBytes,
                                                .root = facts.page_index_root}),
      extent_index_(std::move(files.extent_index), {.label = facts.label + "/extent-index",
                                                    .entry_count = facts.extent_count,
                                                    .entry_bytes = kExtentRecordBytes,
                                                    .root = facts.extent_index_root}),
      pages_(std::move(files.pages)),
      hot_pack_(files.hot_pack ? HotPack::Open(std::move(files.hot_pack), facts.extent_index_root)
                               : nullptr) {}

PageEntry CheckpointImage::EntryOf(uint64_t page) {
  auto entry = Load<uint64_t>(page_index_.At(page));
  uint8_t kind = entry & 0xff;
  PageEntry result{.kind = static_cast<PageKind>(kind),
                   .slot = static_cast<uint8_t>(entry >> 8),
                   .fill = static_cast<uint8_t>(entry >> 16),
                   .extent = static_cast<uint32_t>(entry >> 32)};
  bool sensible = kind <= static_cast<uint8_t>(PageKind::kData) &&
                  (result.kind != PageKind::kData ||
                   (result.extent < facts_.extent_count && result.slot < PagesOf(result.extent)));
  if (!sensible)
    throw DamagedImage(DamagedImage::Part::kIndex,
                       facts_.label + "/page-index: the entry of page " + Number(page) + " makes no sense");
  return result;
}

size_t CheckpointImage::PagesOf(uint64_t extent) {
  return std::min<size_t>(extent_index_.At(extent)[kPageCountAt], facts_.extent_pages);
}

bool CheckpointImage::IsRaw(uint64_t extent) { return RecordOf(extent).codec == kCodecRaw; }

CheckpointImage::Record CheckpointImage::RecordOf(uint64_t extent) {
  const uint8_t* bytes = extent_index_.At(extent);
  Record record{.offset = Load<uint64_t>(bytes),
                .stored_bytes = Load<uint32_t>(bytes + 8),
                .page_count = bytes[kPageCountAt],
                .codec = bytes[13],
                .checksum = Load<uint64_t>(bytes + 16)};
  size_t decoded_bytes = record.page_count * kPageBytes;
  bool fits = record.offset >= kHeaderBytes && record.offset <= pages_.size() &&
              record.stored_bytes <= pages_.size() - record.offset;
  bool sensible = record.page_count >= 1 && record.page_count <= facts_.extent_pages &&
                  (record.codec == kCodecRaw ? record.stored_bytes == decoded_bytes
                                             : record.codec == kCodecZstd && record.stored_bytes >= 1 &&
                                                   record.stored_bytes < decoded_bytes);
  if (!fits || !sensible)
    throw DamagedImage(DamagedImage::Part::kIndex,
                       facts_.label + "/extent-index: record " + Number(extent) + " makes no sense");
  return record;
}

const uint8_t* CheckpointImage::Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) {
  Record record = RecordOf(extent);
  const uint8_t* result = nullptr;
  auto decode = [&](const MappedFile& file, uint64_t offset) {
    return Decode(record, {.file = file, .offset = offset, .access = access}, decoder, into, result);
  };
  if (hot_pack_ != nullptr)
    if (auto packed_at = hot_pack_->Find(extent, record.stored_bytes))
      if (decode(hot_pack_->file(), *packed_at).empty()) return result;
  std::string fault = decode(pages_, record.offset);
  if (!fault.empty()) DamagedExtent(extent, record, fault);
  return result;
}

std::string CheckpointImage::Decode(const Record& record, const Place& place, ExtentDecoder& decoder,
                                    uint8_t* into, const uint8_t*& result) {
  const bool is_raw = record.codec == kCodecRaw;
  const size_t decoded_bytes = record.page_count * kPageBytes;
  const uint8_t* stored = place.file.data() + place.offset;
  if (place.access == Access::kCopied) {
    uint8_t* copy = is_raw ? into : decoder.RoomFor(record.stored_bytes);
    if (!place.file.Copy(place.offset, record.stored_bytes, copy)) return "it cannot be read";
    stored = copy;
  }
  uint64_t found = 0;
  size_t length = decoded_bytes;
  bool readable = ReadGuarded([&] {
    found = Checksum(stored, record.stored_bytes);
    if (found == record.checksum && !is_raw)
      length = ZSTD_decompressDCtx(decoder.context(), into, decoded_bytes, stored, record.stored_bytes);
  });
  if (!readable) {
    // The jump may have left the context in its midst.
    ZSTD_DCtx_reset(decoder.context(), ZSTD_reset_session_only);
    return "it cannot be read";
  }
  if (found != record.checksum)
    return "its checksum is " + Hex(found) + ", " + Hex(record.checksum) + " expected";
  if (length != decoded_bytes) return "it does not decompress to " + Number(record.page_count) + " pages";
  result = is_raw ? stored : into;
  return "";
}

void CheckpointImage::DamagedExtent(uint64_t extent, const Record& record, const std::string& fault) const {
  std::string place = Number(record.stored_bytes) + " bytes at offset " + Number(record.offset);
  throw DamagedImage(DamagedImage::Part::kExtent, "extent " + Number(extent) + " of " + facts_.label + " (" +
                                                      place + " of \"pages\") is damaged: " + fault);
}

void CheckpointImage::ReadAhead(uint64_t first, uint64_t count) {
  uint64_t end = std::min(first + count, facts_.extent_count);
  if (first >= end) return;
  Record from = RecordOf(first);
  Record to = RecordOf(end - 1);
  if (from.offset <= to.offset) pages_.ReadAhead(from.offset, to.offset + to.stored_bytes - from.offset);
}

void CheckpointImage::ReadAhead(std::span<const PageRange> ranges) {
  std::vector<uint32_t> extents;
  for (auto [first, count] : ranges) {
    for (uint64_t page = first; page < first + count; page++) {
      PageEntry entry = EntryOf(page);
      if (entry.kind == PageKind::kData && !IsPacked(entry.extent)) extents.push_back(entry.extent);
    }
  }
  if (hot_pack_ != nullptr) hot_pack_->ReadAhead();
  std::ranges::sort(extents);
  for (size_t at = 0; at < extents.size();) {
    const uint32_t first = extents[at++];
    while (at < extents.size() && extents[at] - extents[at - 1] <= kReadAheadGapExtents) at++;
    ReadAhead(first, extents[at - 1] - first + 1);
  }
}

}  // namespace vmckpt
