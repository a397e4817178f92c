#include "core/packed_extents.h"

#include <vector>

namespace vmckpt {

const uint8_t* PackedExtents::Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) {
  ExtentRecord record = catalog_->RecordOf(extent);
  const uint8_t* decoded = nullptr;
  if (auto offset = pack_->Find(extent, record.stored_bytes))
    if (Decode(record, {.file = pack_->file(), .offset = *offset, .access = access}, decoder, into, decoded)
            .empty())
      return decoded;
  return behind_->Read(extent, decoder, into, access);
}

void PackedExtents::ReadAhead(std::span<const uint32_t> extents, Lane lane) {
  std::vector<uint32_t> others;
  for (uint32_t extent : extents)
    if (!pack_->Has(extent)) others.push_back(extent);
  if (others.size() < extents.size()) pack_->ReadAhead(extents);
  behind_->ReadAhead(others, lane);
}

}  // namespace vmckpt
