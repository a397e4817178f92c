#include "core/extent_codec.h"

#include "core/checksum.h"
#include "core/page.h"

namespace vmckpt {

std::string Decode(const ExtentRecord& record, const Place& place, ExtentDecoder& decoder, uint8_t* into,
                   const uint8_t*& decoded) {
  const bool is_raw = record.codec == Codec::kRaw;
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
    // The jump may have left the context in an inconsistent state.
    ZSTD_DCtx_reset(decoder.context(), ZSTD_reset_session_only);
    return "it cannot be read";
  }
  if (found != record.checksum)
    return "its checksum is " + ChecksumText(found) + ", " + ChecksumText(record.checksum) + " expected";
  if (length != decoded_bytes)
    return "it does not decompress to " + std::to_string(record.page_count) + " pages";
  decoded = is_raw ? stored : into;
  return "";
}

}  // namespace vmckpt
