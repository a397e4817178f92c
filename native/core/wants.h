// Asks the fetcher of a cache for parts of packs, through its FIFO `wants`. A record that is lost, or comes
// twice, does no harm: what waits for an answer asks again. docs/remote.md specifies every byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/extent_source.h"
#include "core/fd.h"

namespace vmckpt {

using PackId = std::array<uint8_t, 16>;

/** Of 32 hexadecimal digits. */
PackId PackIdOf(const std::string& digits);

/** A part of a pack. */
struct Want {
  PackId pack;
  uint64_t offset;
  uint32_t bytes;
  Lane lane;
  /** What is here has failed its verification: it is to be fetched once more. */
  bool again = false;
};

class Wants {
 public:
  /** `fifo` is open for reading and writing, so that it stays whole while no fetcher runs. Not blocking. */
  explicit Wants(Fd fifo);

  /** Never waits. False when the FIFO is full. */
  bool Ask(const Want& want) const;

 private:
  Fd fifo_;
};

}  // namespace vmckpt
