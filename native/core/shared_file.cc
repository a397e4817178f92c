#include "core/shared_file.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>
#include <utility>

#include "core/system_error.h"

namespace vmckpt {

SharedFile::SharedFile(const Fd& file, Use use) {
  struct stat status;
  Check(::fstat(file.get(), &status), "fstat");
  size_ = status.st_size;
  const int protection = use == Use::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  void* mapped = ::mmap(nullptr, size_, protection, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap");
  data_ = static_cast<uint8_t*>(mapped);
}

SharedFile::SharedFile(SharedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}

SharedFile::~SharedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

void RaiseWord(std::atomic<uint32_t>& word) {
  word.fetch_add(1);
  // Not FUTEX_PRIVATE_FLAG: the waiters are other processes.
  Check(::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0), "futex");
}

void AwaitWord(const std::atomic<uint32_t>& word, uint32_t seen, std::chrono::microseconds longest) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(longest);
  const timespec timeout{.tv_sec = seconds.count(),
                         .tv_nsec = std::chrono::nanoseconds(longest - seconds).count()};
  if (::syscall(SYS_futex, &word, FUTEX_WAIT, seen, &timeout, nullptr, 0) == 0) return;
  if (errno != EAGAIN && errno != ETIMEDOUT && errno != EINTR) throw SystemError(errno, "futex");
}

}  // namespace vmckpt
