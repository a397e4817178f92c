#include "core/take_userfaultfd.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/park.h"
#include "core/pidfd.h"
#include "core/process_memory.h"
#include "core/process_status.h"
#include "core/refusal.h"
#include "core/seccomp_filter.h"
#include "core/signal_frame.h"
#include "core/system_error.h"
#include "core/traced_thread.h"
#include "core/userfaultfd.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

namespace vmckpt {

namespace {

using std::chrono::steady_clock;

/** Until a thread is found that will do. */
constexpr std::chrono::seconds kPatience{2};
/** For one thread to stop: microseconds, unless it waits for a disk. */
constexpr std::chrono::milliseconds kStopTime{20};
/** For the two calls, once it is stopped. */
constexpr std::chrono::seconds kCallTime{1};
constexpr std::chrono::milliseconds kBetweenRounds{2};
constexpr uint64_t kFlags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;

/** The main thread first. */
std::vector<pid_t> ThreadsOf(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/task";
  std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), ::closedir);
  if (!directory) throw SystemError(errno, "opendir");
  std::vector<pid_t> threads{pid};
  while (const dirent* entry = ::readdir(directory.get()))
    if (pid_t thread = std::atoi(entry->d_name); thread != 0 && thread != pid) threads.push_back(thread);
  return threads;
}

/** A thread that is stopped, and has what it needs to restore itself. */
struct PreparedThread {
  const TracedThread& thread;
  SignalFrame frame;
  user_regs_struct registers;
};

class Loan {
 public:
  explicit Loan(const TakeOptions& options)
      : options_(options),
        pidfd_(PidfdOpen(options.pid)),
        code_(FindCode(options.pid)),
        leftovers_(UnusedUserfaultfds(options.pid)) {}

  /** Nothing when this thread will not do, at this moment. */
  std::optional<TakenUserfaultfd> TryThread(TracedThread& thread) {
    ParkAt("seized");
    if (!thread.Stop(steady_clock::now() + kStopTime)) return std::nullopt;
    const auto since = steady_clock::now();
    ParkAt("stopped");
    const auto prepared = Prepare(thread);
    if (!prepared) return std::nullopt;
    ParkAt("prepared");
    for (int fd : leftovers_) Close(*prepared, fd);
    Fd taken = MakeAndTake(*prepared);
    ParkAt("closed");
    const auto stopped = steady_clock::now() - since;
    return TakenUserfaultfd{.fd = std::move(taken), .thread = thread.id(), .stopped = stopped};
  }

 private:
  std::optional<PreparedThread> Prepare(const TracedThread& thread) const {
    const user_regs_struct registers = thread.Registers();
    RequireKnownCode(registers);
    RequireHarmless(thread.id());
    auto frame = FrameOf(thread.id(), code_, registers);
    if (!frame || !Write(thread.id(), *frame)) return std::nullopt;
    return PreparedThread{.thread = thread, .frame = std::move(*frame), .registers = registers};
  }

  /** False where its stack has no room, or cannot be written. */
  static bool Write(pid_t thread, SignalFrame& frame) {
    iovec local{.iov_base = frame.bytes.data(), .iov_len = frame.bytes.size()};
    iovec remote{.iov_base = reinterpret_cast<void*>(frame.address), .iov_len = frame.bytes.size()};
    try {
      WriteProcessMemory(thread, {&local, 1}, {&remote, 1});
      return true;
    } catch (const SystemError& error) {
      if (error.error() != EFAULT) throw;
      return false;
    }
  }

  /** What could not be taken is closed as well. */
  Fd MakeAndTake(const PreparedThread& prepared) const {
    const int64_t made = Call(prepared, {.number = SYS_userfaultfd, .argument = kFlags}, "make");
    if (made < 0) RefuseCall(static_cast<int>(-made));
    ParkAt("made");
    try {
      Fd taken = PidfdGetfd(pidfd_.get(), static_cast<int>(made));
      if (!IsUserfaultfd(taken.get())) throw SystemError(EBADF, "userfaultfd");
      ParkAt("taken");
      Close(prepared, static_cast<int>(made));
      return taken;
    } catch (const SystemError& error) {
      if (std::string_view(error.syscall()) == "pidfd_getfd") Close(prepared, static_cast<int>(made));
      throw;
    }
  }

  void Close(const PreparedThread& prepared, int fd) const {
    const int64_t closed =
        Call(prepared, {.number = SYS_close, .argument = static_cast<uint64_t>(fd)}, "close");
    if (closed != 0) throw SystemError(static_cast<int>(-closed), "close");
  }

  /** → the call's result. The thread then stands behind it, on its way to restore itself. */
  int64_t Call(const PreparedThread& prepared, RemoteCall call, const std::string& what) const {
    const TracedThread& thread = prepared.thread;
    thread.SetRegisters(CallRegisters(code_, prepared.frame, prepared.registers, call));
    ParkAt((what + "-set").c_str());
    thread.BlockSignals();
    const auto deadline = steady_clock::now() + kCallTime;
    thread.RunToCall(deadline);
    ParkAt((what + "-entered").c_str());
    thread.RunToCall(deadline);
    return CallResult(thread.Registers());
  }

  void RequireHarmless(pid_t thread) const {
    const ProcessStatus status(thread);
    if (status.Text("x86_Thread_features").find("shstk") != std::string::npos)
      throw Refusal("shadow-stack", "its threads have shadow stacks, which do not let them return elsewhere");
    if (status.Number("Seccomp") == 0) return;
    for (const SeccompFilter& filter : FiltersOf(thread, status))
      for (long call : {SYS_userfaultfd, SYS_close, SYS_rt_sigreturn}) RequireAllowed(filter, call);
  }

  /** Empty where there is only one of which we know what it does. */
  std::vector<SeccompFilter> FiltersOf(pid_t thread, const ProcessStatus& status) const {
    try {
      return SeccompFiltersOf(thread);
    } catch (const SystemError& error) {
      if (options_.is_sandboxed && status.Number("Seccomp_filters") == 1) return {};
      throw Refusal("seccomp",
                    "it has a seccomp filter that cannot be read (" + std::string(error.what()) + ")");
    }
  }

  void RequireAllowed(const SeccompFilter& filter, long number) const {
    seccomp_data call{.nr = static_cast<int>(number),
                      .arch = AUDIT_ARCH_X86_64,
                      .instruction_pointer = code_.call_and_return + 2,
                      .args = {number == SYS_userfaultfd ? kFlags : 0}};
    const uint32_t verdict = VerdictOf(filter, call);
    if (verdict == SECCOMP_RET_ALLOW || verdict == SECCOMP_RET_LOG) return;
    throw Refusal("seccomp", "its seccomp filter does not allow system call " + std::to_string(number));
  }

  [[noreturn]] static void RefuseCall(int error) {
    if (error == ENOSYS) throw Refusal("unsupported", "this kernel has no userfaultfd");
    throw Refusal("unsupported", "it may not make a userfaultfd: " + std::string(std::strerror(error)));
  }

  const TakeOptions& options_;
  Fd pidfd_;
  BorrowedCode code_;
  /** Of one like us that was killed, in the process. */
  std::vector<int> leftovers_;
};

}  // namespace

TakenUserfaultfd TakeNewUserfaultfd(const TakeOptions& options) {
  RequireTraceable(options.pid);
  Loan loan(options);
  const Deadline deadline = steady_clock::now() + kPatience;
  // A thread that does not stop in time stays traced, and is looked at again.
  std::map<pid_t, TracedThread> traced;
  do {
    for (pid_t id : ThreadsOf(options.pid)) {
      try {
        TracedThread& thread = traced.try_emplace(id, id).first->second;
        if (auto taken = loan.TryThread(thread)) return std::move(*taken);
        if (thread.is_stopped()) traced.erase(id);
      } catch (const SystemError& error) {
        if (error.error() != ESRCH) throw;
        // The thread has ended; where it was the last one, the next round finds no process.
        traced.erase(id);
      }
    }
    std::this_thread::sleep_for(kBetweenRounds);
  } while (steady_clock::now() < deadline);
  throw Refusal("no-thread", "none of its threads stands behind a system call that can be made again");
}

}  // namespace vmckpt
