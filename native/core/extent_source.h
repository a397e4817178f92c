// Where the bytes of a checkpoint come from: the one interface between code that installs pages (fault
// server, memory fill) and files, servers and other sources of extents. Every source must pass
// test/unit/native/extent-source.cc.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>

#include "core/extent_codec.h"

namespace vmckpt {

/** How soon something is needed. */
enum class Lane : uint8_t {
  /** Now: a thread waits for it. */
  kDemand = 0,
  kPredicted = 1,
  kRest = 2,
};

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
   * them, and may wait for the disk. An announcement may be lost. Throws DamagedImage if the catalogue is
   * damaged.
   */
  virtual void ReadAhead(std::span<const uint32_t> extents, Lane lane) = 0;

  /**
   * Whether the bytes are here, which Read() may still find damaged. Asks for nothing. Throws DamagedImage if
   * the catalogue is damaged. Without these three functions, a source always has everything.
   */
  virtual bool Has(uint64_t) { return true; }

  /** Changes whenever something has arrived that was demanded. */
  virtual uint32_t arrivals() const { return 0; }

  /** Waits until `arrivals()` is not `seen` any more, at most `longest`. */
  virtual void AwaitArrival(uint32_t, std::chrono::microseconds longest) {
    std::this_thread::sleep_for(longest);
  }
};

}  // namespace vmckpt
