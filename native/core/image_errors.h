// Why the bytes of a checkpoint are not available: permanently, or for now.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace vmckpt {

/** Something in the files differs from what was saved. */
class DamagedImage : public std::runtime_error {
 public:
  enum class Part { kIndex, kExtent };
  DamagedImage(Part part, const std::string& text) : std::runtime_error(text), part_(part) {}
  Part part() const { return part_; }

 private:
  Part part_;
};

/** The source does not have the bytes yet, or cannot be reached. They are not damaged: try again. */
class SourceUnavailable : public std::runtime_error {
 public:
  /** `arrivals` is what the source's had been when the bytes were looked for. */
  SourceUnavailable(const std::string& text, uint32_t arrivals)
      : std::runtime_error(text), arrivals_(arrivals) {}
  uint32_t arrivals() const { return arrivals_; }

 private:
  uint32_t arrivals_;
};

}  // namespace vmckpt
