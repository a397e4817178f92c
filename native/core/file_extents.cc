#include "core/file_extents.h"

namespace vmckpt {

namespace {

/** Reading what lies between two extents costs less than a second request. */
constexpr uint32_t kReadAheadGapExtents = 4;

}  // namespace

const uint8_t* FileExtents::Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) {
  ExtentRecord record = RecordOf(extent);
  const uint8_t* decoded = nullptr;
  std::string fault =
      Decode(record, {.file = pages_, .offset = record.offset, .access = access}, decoder, into, decoded);
  if (!fault.empty()) catalog_->DamagedExtent(extent, fault);
  return decoded;
}

void FileExtents::ReadAhead(std::span<const uint32_t> extents) {
  for (size_t at = 0; at < extents.size();) {
    ExtentRecord from = RecordOf(extents[at++]);
    while (at < extents.size() && extents[at] - extents[at - 1] <= kReadAheadGapExtents) at++;
    ExtentRecord to = RecordOf(extents[at - 1]);
    if (from.offset <= to.offset) pages_.ReadAhead(from.offset, to.offset + to.stored_bytes - from.offset);
  }
}

ExtentRecord FileExtents::RecordOf(uint64_t extent) {
  ExtentRecord record = catalog_->RecordOf(extent);
  bool fits = record.offset <= pages_.size() && record.stored_bytes <= pages_.size() - record.offset;
  if (!fits) catalog_->NonsensicalRecord(extent);
  return record;
}

}  // namespace vmckpt
