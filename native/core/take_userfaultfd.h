// A userfaultfd for the memory of another process, which only a thread of that process can make: one of its
// threads is made to make it, we take it, and the thread is made to close it again.
//
// **The thread restores itself.** What it needs for that lies on its stack before a register is changed
// (signal_frame.h), and from the one system call that changes them on its way is: make the call, return to
// what a signal handler returns to, be as before. So we may die at any moment, by SIGKILL as well: the kernel
// lets go of it, and it goes that way. What may be left then is a descriptor that nothing uses, which the
// next one here closes.
#pragma once

#include <sys/types.h>

#include <chrono>

#include "core/fd.h"

namespace vmckpt {

struct TakenUserfaultfd {
  Fd fd;
  /** Who made it, and for how long it stood still. */
  pid_t thread;
  std::chrono::nanoseconds stopped;
};

struct TakeOptions {
  pid_t pid;
  /** A seccomp filter that we may not read is the one of QEMU's `-sandbox on`. */
  bool is_sandboxed;
};

/** Throws Refusal with the reason, and SystemError where a system call fails that should not. */
TakenUserfaultfd TakeNewUserfaultfd(const TakeOptions& options);

}  // namespace vmckpt
