// The first and only process of a guest with Debian 12's kernel, which has soft-dirty bits and no
// asynchronous write protection. What it finds out stands on the console, a line for each trial: `ok NAME` or
// `not ok NAME: WHY`.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/process_memory.h"
#include "core/soft_dirty.h"
#include "core/system_error.h"
#include "core/write_protection.h"

using vmckpt::kPageBytes;
using vmckpt::PageRuns;

namespace {

constexpr vmckpt::PageRange kAllPages{.first = 0, .count = uint64_t{1} << 32};

constexpr uint64_t kPages = 4096;

void Require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

/** A process with memory that it writes when it is told to. */
class Written {
 public:
  enum class What : uint8_t { kWrite, kByKernel, kDiscard };

  explicit Written(int advice) {
    memory_ = static_cast<uint8_t*>(::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    ::madvise(memory_, kPages * kPageBytes, advice);
    vmckpt::Check(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_), "socketpair");
    pid_ = vmckpt::Check(::fork(), "fork");
    if (pid_ == 0) Obey();
  }
  ~Written() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::close(ends_[0]);
    ::close(ends_[1]);
    ::munmap(memory_, kPages * kPageBytes);
  }

  void Do(What what, uint64_t page, uint64_t count = 1) const {
    const Order order{what, page, count};
    char done;
    Require(::write(ends_[0], &order, sizeof(order)) == sizeof(order), "an order is sent");
    Require(::read(ends_[0], &done, 1) == 1, "an order is obeyed");
  }

  pid_t pid() const { return pid_; }
  std::vector<vmckpt::MemoryRegion> regions() const {
    return {{.address = reinterpret_cast<uint64_t>(memory_), .first_page = 0, .page_count = kPages}};
  }
  std::vector<uint8_t> bytes() const {
    std::vector<uint8_t> bytes(kPages * kPageBytes);
    vmckpt::ReadProcessMemory(pid_, reinterpret_cast<uint64_t>(memory_), bytes.data(), bytes.size());
    return bytes;
  }

 private:
  struct Order {
    What what;
    uint64_t page;
    uint64_t count;
  };

  [[noreturn]] void Obey() const {
    Order order;
    static uint8_t next = 0;
    while (::read(ends_[1], &order, sizeof(order)) == sizeof(order)) {
      uint8_t* at = memory_ + order.page * kPageBytes;
      if (order.what == What::kWrite)
        for (uint64_t i = 0; i < order.count; i++) at[i * kPageBytes] = ++next;
      if (order.what == What::kDiscard) ::madvise(at, order.count * kPageBytes, MADV_DONTNEED);
      if (order.what == What::kByKernel) {
        int zeros = ::open("/proc/self/cmdline", O_RDONLY);
        if (::read(zeros, at, 1) < 0) ::_exit(1);
        ::close(zeros);
      }
      if (::write(ends_[1], "x", 1) != 1) ::_exit(1);
    }
    ::_exit(0);
  }

  uint8_t* memory_;
  int ends_[2];
  pid_t pid_;
};

using enum Written::What;

bool Holds(const PageRuns& runs, uint64_t page) {
  for (auto [first, count] : runs)
    if (page - first < count) return true;
  return false;
}

bool IsJust(const PageRuns& runs, std::vector<uint64_t> pages) {
  uint64_t count = 0;
  for (auto run : runs) count += run.count;
  for (uint64_t page : pages)
    if (!Holds(runs, page)) return false;
  return count == pages.size();
}

void TellsOfWrites() {
  Written written(MADV_NOHUGEPAGE);
  written.Do(kWrite, 0, 100);
  vmckpt::SoftDirty bits(written.pid(), written.regions());
  bits.Arm();
  Require(IsJust(bits.Look(kAllPages), {}), "nothing is told that was written before");
  for (uint64_t page : {10, 12, 3000}) written.Do(kWrite, page);
  written.Do(kByKernel, 20);
  for (int i = 0; i < 2; i++) Require(IsJust(bits.Look(kAllPages), {10, 12, 20, 3000}), "a look tells");
  Require(IsJust(bits.Take(), {10, 12, 20, 3000}), "a take tells");
  Require(IsJust(bits.Take(), {}), "nothing is told twice");
  written.Do(kWrite, 12);
  Require(IsJust(bits.Take(), {12}), "a page is told again when it is written again");
}

void TellsOfWhatWasGivenBack() {
  Written written(MADV_NOHUGEPAGE);
  written.Do(kWrite, 0, 2048);
  vmckpt::SoftDirty bits(written.pid(), written.regions());
  bits.Arm();
  written.Do(kDiscard, 5);
  written.Do(kDiscard, 1024, 512);
  const PageRuns runs = bits.Take();
  Require(Holds(runs, 5) && Holds(runs, 1024) && Holds(runs, 1535) && !Holds(runs, 6), "what went is told");
  Require(IsJust(bits.Take(), {}), "it is told once");
  written.Do(kWrite, 1030);
  Require(IsJust(bits.Take(), {1030}), "what came again is told");
}

void MakesOneMemory(int advice) {
  Written written(advice);
  written.Do(kWrite, 0, kPages / 2);
  vmckpt::SoftDirty bits(written.pid(), written.regions());
  bits.Arm();
  std::vector<uint8_t> composed = written.bytes();
  std::mt19937 random(4711);
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < 50; i++) written.Do(kWrite, random() % (kPages - 8), 1 + random() % 8);
    if (round % 3 == 0) written.Do(kDiscard, random() % (kPages - 512), 1 + random() % 512);
    bits.Look(kAllPages);
    const std::vector<uint8_t> now = written.bytes();
    for (auto [first, count] : bits.Take())
      std::memcpy(&composed[first * kPageBytes], &now[first * kPageBytes], count * kPageBytes);
    Require(composed == now, "the memory that was composed is the memory");
  }
}

void KernelIsAsExpected() {
  Require(vmckpt::SoftDirtyProblem().empty(), "the kernel has soft-dirty bits");
  Require(!vmckpt::WriteProtectionProblem().empty(), "the kernel has no asynchronous write protection");
}

struct Child {
  pid_t pid;
  FILE* to;
  FILE* from;
};

/** With pipes as standard input and `output_fd`. */
Child Start(std::vector<const char*> command, int output_fd, const char* park) {
  int in[2], out[2], line[2];
  vmckpt::Check(::pipe(in), "pipe");
  vmckpt::Check(::pipe(out), "pipe");
  vmckpt::Check(::socketpair(AF_UNIX, SOCK_STREAM, 0, line), "socketpair");
  const pid_t pid = vmckpt::Check(::fork(), "fork");
  if (pid == 0) {
    ::setenv("VMCKPT_PARK", park, 1);
    ::dup2(in[0], 0);
    const int socket = ::fcntl(line[1], F_DUPFD, 100), output = ::fcntl(out[1], F_DUPFD, 100);
    ::dup2(output, output_fd);
    ::dup2(socket, 3);
    ::close_range(4, ~0u, 0);
    command.push_back(nullptr);
    ::execv(command[0], const_cast<char**>(command.data()));
    ::_exit(127);
  }
  for (int fd : {in[0], out[1], line[0], line[1]}) ::close(fd);
  return {.pid = pid, .to = ::fdopen(in[1], "w"), .from = ::fdopen(out[0], "r")};
}

std::string NextLine(const Child& child) {
  char line[256] = "";
  Require(std::fgets(line, sizeof(line), child.from) != nullptr, "a process prints a line");
  return line;
}

void End(const Child& child) {
  ::kill(child.pid, SIGKILL);
  ::waitpid(child.pid, nullptr, 0);
  std::fclose(child.to);
  std::fclose(child.from);
}

/** test/unit/native/traced-process.c compares all that its threads have. */
void KilledTrackersAreHarmless() {
  const Child traced = Start({"/traced-process", "ppoll", "read", "futex"}, 1, "");
  Require(NextLine(traced) == "ready\n", "the process is ready");
  const std::string pid = std::to_string(traced.pid);
  for (const char* point : {"seized", "stopped", "prepared", "make-set", "make-entered", "made", "taken",
                            "close-set", "close-entered", "closed"}) {
    for (int i = 0; i < 3; i++) {
      const Child tracker = Start({"/vmckpt-tracker", pid.c_str()}, 2, point);
      Require(NextLine(tracker).find(std::string("parked at ") + point) != std::string::npos, point);
      End(tracker);
      std::fputs("\n", traced.to);
      std::fflush(traced.to);
      Require(NextLine(traced).find("intact") != std::string::npos, point);
    }
  }
  End(traced);
}

constexpr uid_t kUser = 1000;

/** A process of the user's in a system call in which a tracker can use it. */
pid_t StartSleeper() {
  const pid_t pid = vmckpt::Check(::fork(), "fork");
  if (pid > 0) return pid;
  ::setgid(kUser);
  ::setuid(kUser);
  ::prctl(PR_SET_DUMPABLE, 1);
  for (;;) ::ppoll(nullptr, 0, nullptr, nullptr);
}

/** What a tracker says, as root or as the user. */
std::string AnswerOf(pid_t traced, uid_t user) {
  int line[2];
  vmckpt::Check(::socketpair(AF_UNIX, SOCK_STREAM, 0, line), "socketpair");
  const pid_t pid = vmckpt::Check(::fork(), "fork");
  if (pid == 0) {
    const int socket = ::fcntl(line[1], F_DUPFD, 100);
    ::dup2(socket, 3);
    ::close_range(4, ~0u, 0);
    if (user != 0 && (::setgid(user) != 0 || ::setuid(user) != 0)) ::_exit(127);
    ::execl("/vmckpt-tracker", "/vmckpt-tracker", std::to_string(traced).c_str(), nullptr);
    ::_exit(127);
  }
  ::close(line[1]);
  char answer[512] = "";
  const ssize_t length = ::read(line[0], answer, sizeof(answer) - 1);
  ::close(line[0]);
  ::waitpid(pid, nullptr, 0);
  return std::string(answer, length > 0 ? static_cast<size_t>(length) : 0);
}

void SetYama(const char* scope) {
  const int file = vmckpt::Check(::open("/proc/sys/kernel/yama/ptrace_scope", O_WRONLY), "ptrace_scope");
  Require(::write(file, scope, 1) == 1, "Yama's scope is set");
  ::close(file);
}

/** Scope 3 stays until the next boot. */
void YamaIsNamed() {
  const pid_t sleeper = StartSleeper();
  const auto is = [&](const char* scope, uid_t user, const std::string& expected) {
    SetYama(scope);
    const std::string answer = AnswerOf(sleeper, user);
    if (answer.find(expected) == std::string::npos)
      throw std::runtime_error(std::string("scope ") + scope + ": " + answer);
  };
  const auto refused = [](const char* scope) {
    return std::string(
               "\"not-permitted\",\"text\":\"this user may not trace it (kernel.yama.ptrace_scope is ") +
           scope;
  };
  is("0", kUser, "\"thread\"");
  is("1", kUser, refused("1"));
  is("1", 0, "\"thread\"");
  is("2", kUser, refused("2"));
  is("2", 0, "\"thread\"");
  is("3", 0, refused("3"));
  ::kill(sleeper, SIGKILL);
  ::waitpid(sleeper, nullptr, 0);
}

void Try(const char* name, const std::function<void()>& trial) {
  try {
    trial();
    std::printf("ok %s\n", name);
  } catch (const vmckpt::SystemError& error) {
    std::printf("not ok %s: %s: %s\n", name, error.syscall(), error.what());
  } catch (const std::exception& error) {
    std::printf("not ok %s: %s\n", name, error.what());
  }
}

void PrepareSystem() {
  ::mkdir("/proc", 0755);
  ::mkdir("/dev", 0755);
  ::mount("proc", "/proc", "proc", 0, nullptr);
  ::mount("dev", "/dev", "devtmpfs", 0, nullptr);
  const int console = ::open("/dev/ttyS0", O_RDWR);
  for (int fd : {0, 1, 2}) ::dup2(console, fd);
  ::setvbuf(stdout, nullptr, _IOLBF, 0);
  ::signal(SIGPIPE, SIG_IGN);
}

}  // namespace

int main() {
  PrepareSystem();
  Try("kernel", KernelIsAsExpected);
  Try("writes", TellsOfWrites);
  Try("given back", TellsOfWhatWasGivenBack);
  Try("one memory", [] { MakesOneMemory(MADV_NOHUGEPAGE); });
  Try("one memory of huge pages", [] { MakesOneMemory(MADV_HUGEPAGE); });
  Try("killed trackers", KilledTrackersAreHarmless);
  Try("Yama", YamaIsNamed);
  std::printf("end\n");
  ::reboot(RB_POWER_OFF);
}
