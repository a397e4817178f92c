#include "core/pipe.h"

#include <fcntl.h>

#include "core/system_error.h"

namespace vmckpt {

Pipe MakePipe(size_t capacity_bytes) {
  int ends[2];
  Check(::pipe2(ends, O_CLOEXEC), "pipe2");
  Pipe pipe{.read_end = Fd(ends[0]), .write_end = Fd(ends[1])};
  Check(::fcntl(ends[0], F_SETFL, O_NONBLOCK), "fcntl");
  // A user who has many pipes gets small ones, which are only slower.
  (void)::fcntl(ends[0], F_SETPIPE_SZ, static_cast<int>(capacity_bytes));
  return pipe;
}

ssize_t ReadAvailable(int fd, void* into, size_t size) {
  ssize_t length = RetryOnSignal([&] { return ::read(fd, into, size); });
  if (length == -1 && errno == EAGAIN) return -1;
  return Check(length, "read");
}

}  // namespace vmckpt
