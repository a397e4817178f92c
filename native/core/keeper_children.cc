#include "core/keeper_children.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "core/fd.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** Above every number that a child gets. */
constexpr int kOutOfTheWay = 64;
constexpr int kNotExecuted = 127;

enum class Step : int { kLog, kChdir, kExec };
constexpr const char* kStepNames[] = {"log", "chdir", "exec"};

struct FailedStep {
  Step step;
  int error;
};

void RestoreOomScore(const OomScore& oom_score) {
  // Never lower than the keeper's initial score, so always permitted.
  Fd file(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (file) (void)!::write(file.get(), oom_score.data(), oom_score.size());
}

/** Returns only on failure. */
void Execute(const std::vector<std::string>& argv) {
  std::vector<char*> pointers;
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  ::execv(pointers[0], pointers.data());
}

void PlaceFds(const std::vector<int>& fds) {
  std::vector<int> moved;
  // In two rounds, because one descriptor's number may be another one's destination.
  for (int fd : fds) moved.push_back(Check(::fcntl(fd, F_DUPFD_CLOEXEC, kOutOfTheWay), "fcntl"));
  for (size_t i = 0; i < moved.size(); i++)
    Check(::dup2(moved[i], kFirstServerFd + static_cast<int>(i)), "dup2");
}

[[noreturn]] void BecomeServer(const ServerStart& start, const OomScore& oom_score) {
  try {
    RestoreSignals();
    RestoreOomScore(oom_score);
    PlaceFds(start.fds);
    Check(::setenv("VMCKPT_HELD", start.held.c_str(), 1), "setenv");
    Execute(start.argv);
    throw SystemError(errno, "execv");
  } catch (const SystemError& error) {
    std::fprintf(stderr, "vmckpt-keeper: %s: %s\n", error.syscall(), error.what());
    ::_exit(kNotExecuted);
  }
}

bool WriteToLog(const std::string& path) {
  Fd log(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  return log && ::dup2(log.get(), STDOUT_FILENO) != -1 && ::dup2(log.get(), STDERR_FILENO) != -1;
}

/** Returns only on failure: the step that failed, with errno. */
Step TryToBecomeQemu(const QemuStart& start) {
  if (!WriteToLog(start.log)) return Step::kLog;
  if (::chdir(start.directory.c_str()) == -1) return Step::kChdir;
  Execute(start.argv);
  return Step::kExec;
}

[[noreturn]] void BecomeQemu(const QemuStart& start, const OomScore& oom_score, pid_t keeper,
                             int failure_fd) {
  RestoreSignals();
  RestoreOomScore(oom_score);
  // QEMU gets no session of its own: the scheduler divides the processors among sessions (autogroups,
  // sched(7)), and the nice values of the server's threads would have no effect on it.
  //
  // With Yama's ptrace_scope 1, only ancestors may trace a process, and the server is not an ancestor of
  // QEMU. A process may declare one exception. This one names the keeper, and so allows its descendants,
  // which include every future server. It survives exec. (EINVAL without Yama.)
  ::prctl(PR_SET_PTRACER, static_cast<unsigned long>(keeper), 0, 0, 0);
  Step step = TryToBecomeQemu(start);
  FailedStep failed{.step = step, .error = errno};
  (void)!::write(failure_fd, &failed, sizeof(failed));
  ::_exit(kNotExecuted);
}

struct FailurePipe {
  Fd read_end;
  Fd write_end;
};

FailurePipe MakeFailurePipe() {
  int ends[2];
  Check(::pipe2(ends, O_CLOEXEC), "pipe2");
  return {.read_end = Fd(ends[0]), .write_end = Fd(ends[1])};
}

pid_t ForkQemu(const QemuStart& start, const OomScore& oom_score, const FailurePipe& pipe) {
  pid_t keeper = ::getpid();
  pid_t pid = Check(::fork(), "fork");
  if (pid == 0) BecomeQemu(start, oom_score, keeper, pipe.write_end.get());
  return pid;
}

}  // namespace

void RestoreSignals() {
  // Fails for signals that cannot be changed.
  for (int signal = 1; signal < NSIG; signal++) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

pid_t StartServer(const ServerStart& start, const OomScore& oom_score) {
  pid_t pid = Check(::fork(), "fork");
  if (pid == 0) BecomeServer(start, oom_score);
  return pid;
}

std::variant<pid_t, StartFailure> StartQemu(const QemuStart& start, const OomScore& oom_score) {
  try {
    FailurePipe pipe = MakeFailurePipe();
    pid_t pid = ForkQemu(start, oom_score, pipe);
    pipe.write_end.Reset();
    // The pipe ends without a message: exec has closed the child's end.
    FailedStep failed;
    ssize_t length = RetryOnSignal([&] { return ::read(pipe.read_end.get(), &failed, sizeof(failed)); });
    if (length != sizeof(failed)) return pid;
    RetryOnSignal([&] { return ::waitpid(pid, nullptr, 0); });
    return StartFailure{.step = kStepNames[static_cast<int>(failed.step)], .error = failed.error};
  } catch (const SystemError& error) {
    return StartFailure{.step = "fork", .error = error.error()};
  }
}

}  // namespace vmckpt
