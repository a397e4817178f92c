#include "core/page_catalog.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
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

[[noreturn]] void Damaged(const std::string& label, const std::string& fault) {
  throw DamagedImage(DamagedImage::Part::kIndex, label + ": " + fault);
}

void ReadExactly(int fd, std::span<uint8_t> into, uint64_t offset, const std::string& label) {
  for (size_t done = 0; done < into.size();) {
    ssize_t length =
        RetryOnSignal([&] { return ::pread(fd, into.data() + done, into.size() - done, offset + done); });
    if (length == -1) Damaged(label, std::string("it cannot be read: ") + std::strerror(errno));
    if (length == 0)
      Damaged(label, "it ends at " + Number(offset + done) + ", before " + Number(offset + into.size()));
    done += length;
  }
}

struct Table {
  int fd;
  uint64_t offset;
  uint64_t bytes;
  uint64_t root;
};

std::vector<uint8_t> ReadTable(const Table& table, const std::string& label) {
  std::vector<uint8_t> bytes(table.bytes);
  ReadExactly(table.fd, bytes, table.offset, label);
  uint64_t found = Checksum(bytes.data(), bytes.size());
  if (found != table.root)
    Damaged(label, "the root is " + ChecksumText(found) + ", " + ChecksumText(table.root) + " expected");
  return bytes;
}

/** Chunks one behind the other, and the table of their checksums. */
struct ChunkRow {
  int fd;
  uint64_t chunks_offset;
  uint64_t table_offset;
  uint64_t root;
};

std::vector<IndexChunks::Place> ChunksInOrder(const ChunkRow& row, const IndexChunks::Shape& shape) {
  const uint64_t count = shape.ChunkCount();
  auto table = ReadTable(
      {.fd = row.fd, .offset = row.table_offset, .bytes = count * sizeof(uint64_t), .root = row.root},
      shape.label);
  std::vector<IndexChunks::Place> places;
  for (uint64_t chunk = 0; chunk < count; chunk++)
    places.push_back({.fd = row.fd,
                      .offset = row.chunks_offset + chunk * shape.chunk_bytes,
                      .checksum = Load<uint64_t>(table.data() + chunk * sizeof(uint64_t)),
                      .label = shape.label});
  return places;
}

std::array<size_t, kPlaceCount> FilesByPlace(const ImageFacts& facts) {
  std::array<size_t, kPlaceCount> files;
  files.fill(PageCatalog::kNoFile);
  for (size_t at = 0; at < facts.extent_files.size(); at++) files.at(facts.extent_files[at].place) = at;
  return files;
}

IndexChunks::Shape PageShape(const ImageFacts& facts) {
  const bool is_format1 = facts.format_version == 1;
  return {.label = facts.label + (is_format1 ? "/page-index" : "/page-chunks"),
          .entry_count = facts.page_count,
          .entry_bytes = kPageEntryBytes,
          .chunk_bytes = is_format1 ? kFormat1PageChunkBytes : kPageChunkBytes};
}

/** Names the file with the records of a file of extents. */
std::string RecordsLabel(const ImageFacts& facts, size_t file) {
  return facts.label + "/" + (facts.format_version == 1 ? "extent-index" : facts.extent_files[file].name);
}

}  // namespace

uint64_t ImageFacts::ExtentCount() const {
  uint64_t count = 0;
  for (const ExtentFileFacts& file : extent_files) count += file.extent_count;
  return count;
}

IndexChunks::IndexChunks(const Shape& shape, std::vector<Place> places)
    : shape_(shape),
      places_(std::move(places)),
      chunks_(places_.size() * shape.chunk_bytes),
      loaded_(std::make_unique<std::atomic<bool>[]>(places_.size())) {}

const uint8_t* IndexChunks::At(uint64_t entry) {
  if (entry >= shape_.entry_count)
    Damaged(shape_.label, "entry " + Number(entry) + " asked for, " + Number(shape_.entry_count) + " there");
  uint64_t offset = entry * shape_.entry_bytes;
  uint64_t chunk = offset / shape_.chunk_bytes;
  if (!loaded_[chunk].load(std::memory_order_acquire)) Load(chunk);
  return chunks_.data() + offset;
}

void IndexChunks::Load(uint64_t chunk) {
  std::lock_guard lock(loading_);
  if (loaded_[chunk].load(std::memory_order_relaxed)) return;
  const Place& place = places_[chunk];
  if (place.fd != -1) {
    uint8_t* into = chunks_.data() + chunk * shape_.chunk_bytes;
    ReadExactly(place.fd, {into, shape_.chunk_bytes}, place.offset, place.label);
    uint64_t found = Checksum(into, shape_.chunk_bytes);
    if (found != place.checksum)
      Damaged(place.label, "chunk " + Number(chunk) + " has the checksum " + ChecksumText(found) + ", " +
                               ChecksumText(place.checksum) + " expected");
  }
  loaded_[chunk].store(true, std::memory_order_release);
}

PageCatalog::PageCatalog(CatalogFiles files, const ImageFacts& facts)
    : facts_(facts),
      files_(std::move(files)),
      place_shift_(facts.format_version == 1 ? 32 : kPlaceShift),
      file_at_(FilesByPlace(facts)),
      page_index_(PageShape(facts), facts.format_version == 1 ? Format1PageChunks() : PageChunks()) {
  uint64_t first_ordinal = 0;
  for (size_t at = 0; at < facts_.extent_files.size(); at++) {
    extent_files_.push_back({.first_ordinal = first_ordinal, .records = RecordsOf(at)});
    first_ordinal += facts_.extent_files[at].extent_count;
  }
}

PageEntry PageCatalog::EntryOf(uint64_t page) {
  auto entry = Load<uint64_t>(page_index_.At(page));
  uint8_t kind = entry & 0xff;
  PageEntry result{.kind = static_cast<PageKind>(kind),
                   .slot = static_cast<uint8_t>(entry >> 8),
                   .fill = static_cast<uint8_t>(entry >> 16),
                   .extent = static_cast<uint32_t>(entry >> 32)};
  bool sensible = kind <= static_cast<uint8_t>(PageKind::kData) &&
                  (result.kind != PageKind::kData ||
                   (FileOf(result.extent) != kNoFile && result.slot < PagesOf(result.extent)));
  if (!sensible) Damaged(page_index_.label(), "the entry of page " + Number(page) + " makes no sense");
  return result;
}

size_t PageCatalog::PagesOf(uint64_t extent) {
  return std::min<size_t>(RecordBytes(extent)[kPageCountAt], facts_.extent_pages);
}

ExtentRecord PageCatalog::RecordOf(uint64_t extent) {
  const uint8_t* bytes = RecordBytes(extent);
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

size_t PageCatalog::FileOf(uint64_t extent) const {
  const uint64_t place = extent >> place_shift_;
  const size_t file = place < file_at_.size() ? file_at_[place] : kNoFile;
  if (file == kNoFile || NumberOf(extent) >= facts_.extent_files[file].extent_count) return kNoFile;
  return file;
}

uint64_t PageCatalog::OrdinalOf(uint64_t extent) const {
  return extent_files_[FileOf(extent)].first_ordinal + NumberOf(extent);
}

void PageCatalog::NonsensicalRecord(uint64_t extent) const {
  Damaged(RecordsLabel(facts_, FileOf(extent)), "record " + Number(NumberOf(extent)) + " makes no sense");
}

void PageCatalog::DamagedExtent(uint64_t extent, const std::string& fault) {
  ExtentRecord record = RecordOf(extent);
  std::string place = Number(record.stored_bytes) + " bytes at offset " + Number(record.offset);
  throw DamagedImage(DamagedImage::Part::kExtent,
                     "extent " + Number(NumberOf(extent)) + " of " + facts_.label + " (" + place + " of \"" +
                         facts_.extent_files[FileOf(extent)].name + "\") is damaged: " + fault);
}

const uint8_t* PageCatalog::RecordBytes(uint64_t extent) {
  const size_t file = FileOf(extent);
  if (file == kNoFile)
    Damaged(facts_.label, "extent " + Number(extent) + " asked for, which none of its files has");
  return extent_files_[file].records->At(NumberOf(extent));
}

std::vector<IndexChunks::Place> PageCatalog::PageChunks() const {
  const std::string label = PageShape(facts_).label;
  const uint64_t count = PageShape(facts_).ChunkCount();
  auto table = ReadTable({.fd = files_.page_table.get(),
                          .offset = kFileHeaderBytes,
                          .bytes = count * kPageChunkEntryBytes,
                          .root = facts_.page_index_root},
                         label);
  std::vector<IndexChunks::Place> places;
  for (uint64_t chunk = 0; chunk < count; chunk++) {
    const uint8_t* entry = table.data() + chunk * kPageChunkEntryBytes;
    const auto number = Load<uint32_t>(entry + sizeof(uint64_t));
    if (number == kNoChunk) {
      places.push_back({.fd = -1, .offset = 0, .checksum = 0, .label = label});
      continue;
    }
    const size_t file = file_at_[number >> kPlaceShift];
    if (file == kNoFile || NumberOf(number) >= facts_.extent_files[file].chunk_count)
      Damaged(label, "chunk " + Number(chunk) + " lies in place " + Number(number) + ", which no pack has");
    places.push_back({.fd = files_.records[file].get(),
                      .offset = facts_.extent_files[file].chunks_offset + NumberOf(number) * kPageChunkBytes,
                      .checksum = Load<uint64_t>(entry),
                      .label = RecordsLabel(facts_, file)});
  }
  return places;
}

std::vector<IndexChunks::Place> PageCatalog::Format1PageChunks() const {
  const IndexChunks::Shape shape = PageShape(facts_);
  return ChunksInOrder({.fd = files_.page_table.get(),
                        .chunks_offset = kFileHeaderBytes,
                        .table_offset = kFileHeaderBytes + shape.ChunkCount() * shape.chunk_bytes,
                        .root = facts_.page_index_root},
                       shape);
}

std::unique_ptr<IndexChunks> PageCatalog::RecordsOf(size_t file) const {
  const ExtentFileFacts& facts = facts_.extent_files[file];
  const IndexChunks::Shape shape{.label = RecordsLabel(facts_, file),
                                 .entry_count = facts.extent_count,
                                 .entry_bytes = kExtentRecordBytes,
                                 .chunk_bytes = kRecordChunkBytes};
  return std::make_unique<IndexChunks>(shape, ChunksInOrder({.fd = files_.records[file].get(),
                                                             .chunks_offset = facts.records_offset,
                                                             .table_offset = facts.record_table_offset,
                                                             .root = facts.records_root},
                                                            shape));
}

}  // namespace vmckpt
