// Private memory from the kernel. It reads as zero and costs nothing until it is touched. See mmap(2).
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/system_error.h"

namespace vmckpt {

class AnonymousMemory {
 public:
  explicit AnonymousMemory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* mapped =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw SystemError(errno, "mmap");
    data_ = static_cast<uint8_t*>(mapped);
  }
  AnonymousMemory(AnonymousMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  AnonymousMemory& operator=(AnonymousMemory&&) = delete;
  ~AnonymousMemory() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }

  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_;
};

}  // namespace vmckpt
