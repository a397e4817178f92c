#include "core/page_catalog.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/checksum.h"
#include "core/page.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** Where a record has its number of pages. */
constexpr size_t kPageCountAt = 12;

std::string Number(uint64_t value) { return std::to_string(value); }

template <typename Value>
Value Load(const uint8_t* from) {
  Value value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

uint64_t ChunkCount(const IndexFile::Shape& shape) {
  uint64_t per_chunk = kIndexChunkBytes / shape.entry_bytes;
  return (shape.entry_count + per_chunk - 1) / per_chunk;
}

}  // namespace

IndexFile::IndexFile(Fd file, const Shape& shape)
    : shape_(shape),
      file_(std::move(file)),
      checksums_(ChunkCount(shape)),
      chunks_(ChunkCount(shape) * kIndexChunkBytes),
      loaded_(std::make_unique<std::atomic<bool>[]>(ChunkCount(shape))) {
  size_t table_bytes = checksums_.size() * sizeof(uint64_t);
  ReadExactly(checksums_.data(), table_bytes, kFileHeaderBytes + chunks_.size());
  uint64_t found = Checksum(checksums_.data(), table_bytes);
  if (found != shape.root)
    Damaged("the root is " + ChecksumText(found) + ", " + ChecksumText(shape.root) + " expected");
}

const uint8_t* IndexFile::At(uint64_t entry) {
  if (entry >= shape_.entry_count)
    Damaged("entry " + Number(entry) + " asked for, " + Number(shape_.entry_count) + " there");
  uint64_t offset = entry * shape_.entry_bytes;
  uint64_t chunk = offset / kIndexChunkBytes;
  if (!loaded_[chunk].load(std::memory_order_acquire)) Load(chunk);
  return chunks_.data() + offset;
}

void IndexFile::Load(uint64_t chunk) {
  std::lock_guard lock(loading_);
  if (loaded_[chunk].load(std::memory_order_relaxed)) return;
  uint8_t* into = chunks_.data() + chunk * kIndexChunkBytes;
  ReadExactly(into, kIndexChunkBytes, kFileHeaderBytes + chunk * kIndexChunkBytes);
  uint64_t found = Checksum(into, kIndexChunkBytes);
  if (found != checksums_[chunk])
    Damaged("chunk " + Number(chunk) + " has the checksum " + ChecksumText(found) + ", " +
            ChecksumText(checksums_[chunk]) + " expected");
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

PageCatalog::PageCatalog(IndexFiles files, const ImageFacts& facts)
    : facts_(facts),
      page_index_(std::move(files.page_index), {.label = facts.label + "/page-index",
                                                .entry_count = facts.page_count,
                                                .entry_bytes = kPageEntryBytes,
                                                .root = facts.page_index_root}),
      extent_index_(std::move(files.extent_index), {.label = facts.label + "/extent-index",
                                                    .entry_count = facts.extent_count,
                                                    .entry_bytes = kExtentRecordBytes,
                                                    .root = facts.extent_index_root}) {}

PageEntry PageCatalog::EntryOf(uint64_t page) {
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

size_t PageCatalog::PagesOf(uint64_t extent) {
  return std::min<size_t>(extent_index_.At(extent)[kPageCountAt], facts_.extent_pages);
}

ExtentRecord PageCatalog::RecordOf(uint64_t extent) {
  const uint8_t* bytes = extent_index_.At(extent);
  ExtentRecord record{.offset = Load<uint64_t>(bytes),
                      .stored_bytes = Load<uint32_t>(bytes + 8),
                      .page_count = bytes[kPageCountAt],
                      .codec = static_cast<Codec>(bytes[13]),
                      .checksum = Load<uint64_t>(bytes + 16)};
  size_t decoded_bytes = record.page_count * kPageBytes;
  bool sensible = record.offset >= kFileHeaderBytes && record.page_count >= 1 &&
                  record.page_count <= facts_.extent_pages &&
                  (record.codec == Codec::kRaw ? record.stored_bytes == decoded_bytes
                                               : record.codec == Codec::kZstd && record.stored_bytes >= 1 &&
                                                     record.stored_bytes < decoded_bytes);
  if (!sensible) NonsensicalRecord(extent);
  return record;
}

void PageCatalog::NonsensicalRecord(uint64_t extent) const {
  throw DamagedImage(DamagedImage::Part::kIndex,
                     facts_.label + "/extent-index: record " + Number(extent) + " makes no sense");
}

void PageCatalog::DamagedExtent(uint64_t extent, const std::string& fault) {
  ExtentRecord record = RecordOf(extent);
  std::string place = Number(record.stored_bytes) + " bytes at offset " + Number(record.offset);
  throw DamagedImage(DamagedImage::Part::kExtent, "extent " + Number(extent) + " of " + facts_.label + " (" +
                                                      place + " of \"pages\") is damaged: " + fault);
}

}  // namespace vmckpt
