// vmckpt-tracker PID [--sandboxed]: makes a userfaultfd for the memory of that process (take_userfaultfd.h)
// and sends it over the unix socket that is descriptor 3, with one line of JSON:
//   {"thread":1234,"stoppedUs":95}         and the descriptor, exit code 0
//   {"reason":"traced","text":"process 7 (gdb) traces it"}      without one, exit code 1
// Reasons: architecture, no-process, not-permitted, traced, stopped, no-thread, no-code, shadow-stack,
// seccomp, unsupported, failed. Exit code 2: wrong usage.
// vmckpt-tracker --hold PID SOCKET: keeps the userfaultfd that is descriptor 3 (holder.h); descriptor 4 is
// the connection of the save that has it.
#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/holder.h"
#include "core/process_status.h"
#include "core/refusal.h"
#include "core/system_error.h"
#include "core/take_userfaultfd.h"
#include "core/unix_socket.h"

namespace {

using vmckpt::Refusal;
using vmckpt::SystemError;

constexpr int kSocket = 3;
/** Of a holder. */
constexpr int kUserfaultfd = 3;
constexpr int kSession = 4;

/** Texts are ours and the kernel's; a process's name may hold anything. */
std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (unsigned char byte : text) {
    if (byte == '"' || byte == '\\') quoted += '\\';
    quoted += byte < 0x20 || byte >= 0x7f ? '?' : static_cast<char>(byte);
  }
  return quoted + "\"";
}

void Answer(const std::string& line, std::span<const int> fds) {
  vmckpt::SendFds(kSocket, {reinterpret_cast<const uint8_t*>(line.data()), line.size()}, fds);
}

int Refuse(const char* reason, const std::string& text) {
  Answer("{\"reason\":\"" + std::string(reason) + "\",\"text\":" + Quoted(text) + "}\n", {});
  return 1;
}

void Take(const vmckpt::TakeOptions& options) {
  const vmckpt::TakenUserfaultfd taken = vmckpt::TakeNewUserfaultfd(options);
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(taken.stopped).count();
  const int fd = taken.fd.get();
  Answer("{\"thread\":" + std::to_string(taken.thread) + ",\"stoppedUs\":" + std::to_string(us) + "}\n",
         {&fd, 1});
}

int RefuseOn(const SystemError& error, pid_t pid) {
  if (error.error() == ESRCH) return Refuse("no-process", "it has ended");
  if (error.error() == EPERM || error.error() == EACCES)
    return Refuse("not-permitted", vmckpt::WhyNotPermitted(pid));
  return Refuse("failed", std::string(error.syscall()) + ": " + error.what());
}

int Run(const vmckpt::TakeOptions& options) {
  try {
    Take(options);
    return 0;
  } catch (const Refusal& refusal) {
    return Refuse(refusal.reason(), refusal.what());
  } catch (const SystemError& error) {
    return RefuseOn(error, options.pid);
  }
}

/** 0 when it is none. */
pid_t PidOf(const char* text) {
  char* end;
  const long pid = std::strtol(text, &end, 10);
  return *end == '\0' && pid > 0 ? static_cast<pid_t>(pid) : 0;
}

std::optional<vmckpt::TakeOptions> TakeOptionsOf(std::span<char*> arguments) {
  if (arguments.empty() || arguments.size() > 2) return std::nullopt;
  const bool is_sandboxed = arguments.size() == 2;
  if (is_sandboxed && std::string_view(arguments[1]) != "--sandboxed") return std::nullopt;
  const pid_t pid = PidOf(arguments[0]);
  if (pid == 0) return std::nullopt;
  return vmckpt::TakeOptions{.pid = pid, .is_sandboxed = is_sandboxed};
}

std::optional<vmckpt::HolderOptions> HolderOptionsOf(std::span<char*> arguments) {
  if (arguments.size() != 3 || std::string_view(arguments[0]) != "--hold") return std::nullopt;
  const pid_t pid = PidOf(arguments[1]);
  if (pid == 0) return std::nullopt;
  return vmckpt::HolderOptions{.pid = pid, .socket_path = arguments[2]};
}

int Main(std::span<char*> arguments) {
  if (const auto options = HolderOptionsOf(arguments)) {
    vmckpt::RunHolder(*options, vmckpt::Fd(kUserfaultfd), vmckpt::Fd(kSession));
    return 0;
  }
  const auto options = TakeOptionsOf(arguments);
  if (!options) {
    std::fprintf(stderr, "vmckpt-tracker is started by vmckpt, and needs a descriptor 3\n");
    return 2;
  }
  // While it waits for the thread, the thread stands still: not for the 50 µs that sleeps are usually rounded
  // up to.
  ::prctl(PR_SET_TIMERSLACK, 1);
  return Run(*options);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main({argv + 1, static_cast<size_t>(argc) - 1});
  } catch (const SystemError& error) {
    std::fprintf(stderr, "vmckpt-tracker: %s: %s\n", error.syscall(), error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vmckpt-tracker: %s\n", error.what());
  }
  return 1;
}
