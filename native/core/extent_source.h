// Where the bytes of a checkpoint come from: the one interface between code that installs pages (fault
// server, memory fill) and files, servers and other sources of extents. Every source must pass
// test/unit/native/extent-source.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/extent_codec.h"

namespace vmckpt {

/** Safe to use from several threads. One call per extent, never per page. */
class ExtentSource {
 public:
  virtual ~ExtentSource() = default;

  /**
   * The extent's verified bytes, in `into` (which has room for the most pages that an extent may hold) or in
   * place. Does not wait for anything slower than a disk. Throws DamagedImage, which names the extent, and
   * SourceUnavailable if the bytes are not here yet; then they are on their way.
   */
  virtual const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) = 0;

  /**
   * Announces that these extents will be read soon; ascending. The source may also fetch small gaps between
   * them, and may wait for the disk. Throws DamagedImage if the catalogue is damaged.
   */
  virtual void ReadAhead(std::span<const uint32_t> extents) = 0;
};

}  // namespace vmckpt
