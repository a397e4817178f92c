// A file that processes have in common, mapped, and words in it for which they wait: mmap(2), futex(2).
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include "core/fd.h"

namespace vmckpt {

class SharedFile {
 public:
  enum class Use { kRead, kWrite };

  /** Maps the whole file, which must not become shorter; an empty one is refused (SystemError EINVAL). */
  SharedFile(const Fd& file, Use use);
  SharedFile(SharedFile&& other) noexcept;
  SharedFile& operator=(SharedFile&&) = delete;
  ~SharedFile();

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  template <typename Value>
  const std::atomic<Value>& At(size_t offset) const {
    return *reinterpret_cast<const std::atomic<Value>*>(data_ + offset);
  }

 private:
  uint8_t* data_;
  size_t size_;
};

/** Adds one to the word and wakes every process that waits for it. */
void RaiseWord(std::atomic<uint32_t>& word);

/** Waits until the word is not `seen` any more, at most `longest`; may return earlier. */
void AwaitWord(const std::atomic<uint32_t>& word, uint32_t seen, std::chrono::microseconds longest);

}  // namespace vmckpt
