// Where the bytes of a checkpoint come from: the one seam between those who put pages in place (fault server,
// memory fill) and files, servers and whatever else has extents. test/unit/native/extent-source.cc is what
// every source has to pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/extent_codec.h"

namespace vmckpt {

/** Safe to use from several threads. One call for each extent, never for a page. */
class ExtentSource {
 public:
  virtual ~ExtentSource() = default;

  /**
   * The extent's verified bytes, in `into` (room for as many pages as an extent may hold) or in place. Does
   * not wait for anything slower than a disk. Throws DamagedImage, which names the extent; SourceUnavailable
   * where the bytes are not here yet, and then they are on their way.
   */
  virtual const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) = 0;

  /**
   * Says that these will be read soon; ascending. What lies between close ones may be fetched with them. May
   * wait for the disk. Throws DamagedImage where the catalogue is damaged.
   */
  virtual void ReadAhead(std::span<const uint32_t> extents) = 0;
};

}  // namespace vmckpt
