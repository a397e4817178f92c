// A large pipe between another process, which writes at will, and a reader that never waits in the kernel.
// See pipe(7).
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "core/fd.h"

namespace vmckpt {

struct Pipe {
  /** Non-blocking. */
  Fd read_end;
  /** Blocking. */
  Fd write_end;
};

/** Both ends are close-on-exec. The system's limits may leave it smaller than `capacity_bytes`. */
Pipe MakePipe(size_t capacity_bytes);

/** Reads what a non-blocking descriptor has right now: 0 at the end, -1 when there is nothing yet. */
ssize_t ReadAvailable(int fd, void* into, size_t size);

}  // namespace vmckpt
