// A file that is mapped for reading. Reads may fail: what the disk cannot deliver arrives as SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/fd.h"

namespace vmckpt {

class MappedFile {
 public:
  /** Maps the whole file; an empty file is allowed. */
  explicit MappedFile(Fd file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  /**
   * Copies `bytes` from `offset` on. False when they cannot be read. For a few pages that were not touched in
   * the mapping, this takes half as long as reading them there.
   */
  bool Copy(size_t offset, size_t bytes, uint8_t* into) const;

  /** Starts to read the pages around [offset, offset + bytes) into the page cache. */
  void ReadAhead(size_t offset, size_t bytes) const;

 private:
  Fd file_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

namespace internal {
bool RunGuarded(void (*body)(void*), void* argument);
}

/**
 * Runs `body`, which reads mapped files. False when one of them could not be read: then a jump leaves the
 * body, so nothing in it may need a destructor.
 */
template <typename Body>
bool ReadGuarded(Body body) {
  return internal::RunGuarded([](void* argument) { (*static_cast<Body*>(argument))(); }, &body);
}

}  // namespace vmckpt
