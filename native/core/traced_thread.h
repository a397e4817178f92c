// One thread of another process under ptrace(2), for as short as can be. When we die the kernel lets it go on
// with the registers that it has at that moment.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <cstdint>

namespace vmckpt {

using Deadline = std::chrono::steady_clock::time_point;

class TracedThread {
 public:
  /** Begins to trace it; it runs on. Throws SystemError: EPERM without the right, or when it is traced
   * already. */
  explicit TracedThread(pid_t thread);
  TracedThread(const TracedThread&) = delete;
  TracedThread& operator=(const TracedThread&) = delete;
  /** Lets it go on. Where it has not stopped yet, that is left to the end of this process. */
  ~TracedThread();

  pid_t id() const { return thread_; }
  bool is_stopped() const { return is_stopped_; }

  /** Stops it; false when it does not stop in time, for example because it waits for a disk. Throws Refusal
   * `stopped`. */
  bool Stop(Deadline deadline);

  user_regs_struct Registers() const;

  /** With one system call, so that all of them change or none. */
  void SetRegisters(const user_regs_struct& registers) const;

  /** No signal handler comes in between from now on. */
  void BlockSignals() const;

  /** Lets it run until it begins a system call, or ends one. Throws SystemError: ETIMEDOUT, ESRCH. */
  void RunToCall(Deadline deadline) const;

 private:
  /** The status of waitpid(2); 0 when nothing happens in time. */
  int Await(Deadline deadline) const;

  pid_t thread_;
  bool is_stopped_ = false;
};

}  // namespace vmckpt
