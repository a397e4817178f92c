// The extents that were decompressed last: a page of the same extent is often needed soon.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

namespace vmckpt {

class ExtentCache {
 public:
  using Buffer = std::shared_ptr<const uint8_t[]>;

  /** Null when it is not in the cache. */
  Buffer Find(uint32_t extent) {
    std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_)
      if (entry.bytes && entry.extent == extent) return entry.bytes;
    return nullptr;
  }

  /** Replaces the oldest entry. */
  void Put(uint32_t extent, Buffer bytes) {
    std::lock_guard lock(mutex_);
    entries_[next_] = {.extent = extent, .bytes = std::move(bytes)};
    next_ = (next_ + 1) % entries_.size();
  }

 private:
  struct Entry {
    uint32_t extent;
    Buffer bytes;
  };

  std::mutex mutex_;
  std::array<Entry, 16> entries_{};
  size_t next_ = 0;
};

}  // namespace vmckpt
