#include "core/traced_thread.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <string>
#include <thread>

#include "core/refusal.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

constexpr std::chrono::microseconds kPoll{20};
/**
 * Tells stops at system calls from traps. It also is what makes it safe to die while the thread stands in
 * one: the kernel would deliver the number of the stop as a signal, and this one is none.
 */
constexpr int kCallStop = SIGTRAP | 0x80;

bool IsEventStop(int status) { return status >> 16 == PTRACE_EVENT_STOP; }

}  // namespace

TracedThread::TracedThread(pid_t thread) : thread_(thread) {
  Check(::ptrace(PTRACE_SEIZE, thread, 0, PTRACE_O_TRACESYSGOOD), "ptrace");
  Check(::ptrace(PTRACE_INTERRUPT, thread, 0, 0), "ptrace");
}

TracedThread::~TracedThread() {
  if (is_stopped_) ::ptrace(PTRACE_DETACH, thread_, 0, 0);
}

int TracedThread::Await(Deadline deadline) const {
  for (;;) {
    int status = 0;
    pid_t changed = RetryOnSignal([&] { return ::waitpid(thread_, &status, __WALL | WNOHANG); });
    if (Check(changed, "waitpid") != 0) {
      if (!WIFSTOPPED(status)) throw SystemError(ESRCH, "waitpid");
      return status;
    }
    if (std::chrono::steady_clock::now() > deadline) return 0;
    std::this_thread::sleep_for(kPoll);
  }
}

bool TracedThread::Stop(Deadline deadline) {
  for (;;) {
    const int status = Await(deadline);
    if (status == 0) return false;
    const int signal = WSTOPSIG(status);
    is_stopped_ = true;
    if (IsEventStop(status) && signal == SIGTRAP) return true;
    if (IsEventStop(status)) throw Refusal("stopped", "it is stopped by signal " + std::to_string(signal));
    // A signal that came first.
    Check(::ptrace(PTRACE_CONT, thread_, 0, signal), "ptrace");
    is_stopped_ = false;
  }
}

user_regs_struct TracedThread::Registers() const {
  user_regs_struct registers;
  Check(::ptrace(PTRACE_GETREGS, thread_, 0, &registers), "ptrace");
  return registers;
}

void TracedThread::SetRegisters(const user_regs_struct& registers) const {
  Check(::ptrace(PTRACE_SETREGS, thread_, 0, &registers), "ptrace");
}

void TracedThread::BlockSignals() const {
  uint64_t all = ~uint64_t{0};
  Check(::ptrace(PTRACE_SETSIGMASK, thread_, sizeof(all), &all), "ptrace");
}

void TracedThread::RunToCall(Deadline deadline) const {
  for (int signal = 0;;) {
    Check(::ptrace(PTRACE_SYSCALL, thread_, 0, signal), "ptrace");
    const int status = Await(deadline);
    if (status == 0) throw SystemError(ETIMEDOUT, "waitpid");
    if (WSTOPSIG(status) == kCallStop) return;
    signal = IsEventStop(status) ? 0 : WSTOPSIG(status);
  }
}

}  // namespace vmckpt
