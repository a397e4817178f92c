#include "core/file_extents.h"

namespace vmckpt {

namespace {

/** Reading what lies between two extents costs less than a second request. */
constexpr uint32_t kReadAheadGapExtents = 4;

}  // namespace

FileExtents::FileExtents(std::shared_ptr<PageCatalog> catalog, std::vector<Fd> files)
    : catalog_(std::move(catalog)) {
  for (Fd& file : files) files_.push_back(std::make_unique<MappedFile>(std::move(file)));
}

const uint8_t* FileExtents::Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) {
  ExtentRecord record = RecordOf(extent);
  const uint8_t* decoded = nullptr;
  std::string fault = Decode(record, {.file = FileOf(extent), .offset = record.offset, .access = access},
                             decoder, into, decoded);
  if (!fault.empty()) catalog_->DamagedExtent(extent, fault);
  return decoded;
}

void FileExtents::ReadAhead(std::span<const uint32_t> extents, Lane) {
  auto follows = [&](size_t at) {
    return extents[at] - extents[at - 1] <= kReadAheadGapExtents &&
           catalog_->FileOf(extents[at]) == catalog_->FileOf(extents[at - 1]);
  };
  for (size_t at = 0; at < extents.size();) {
    ExtentRecord from = RecordOf(extents[at]);
    const MappedFile& file = FileOf(extents[at++]);
    while (at < extents.size() && follows(at)) at++;
    ExtentRecord to = RecordOf(extents[at - 1]);
    if (from.offset <= to.offset) file.ReadAhead(from.offset, to.offset + to.stored_bytes - from.offset);
  }
}

ExtentRecord FileExtents::RecordOf(uint64_t extent) {
  ExtentRecord record = catalog_->RecordOf(extent);
  const size_t file_bytes = FileOf(extent).size();
  bool fits = record.offset <= file_bytes && record.stored_bytes <= file_bytes - record.offset;
  if (!fits) catalog_->NonsensicalRecord(extent);
  return record;
}

}  // namespace vmckpt
