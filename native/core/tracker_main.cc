// vmckpt-tracker PID [--sandboxed]: makes a userfaultfd for the memory of that process (take_userfaultfd.h)
// and sends it over the unix socket that is descriptor 3, with one line of JSON:
//   {"thread":1234,"stoppedUs":95}         and the descriptor, exit code 0
//   {"reason":"traced","text":"process 7 (gdb) traces it"}      without one, exit code 1
// Reasons: architecture, no-process, not-permitted, traced, stopped, no-thread, no-code, shadow-stack,
// seccomp, unsupported, failed. Exit code 2: wrong usage.
#include <sys/prctl.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/process_status.h"
#include "core/refusal.h"
#include "core/system_error.h"
#include "core/take_userfaultfd.h"
#include "core/unix_socket.h"

namespace {

using vmckpt::Refusal;
using vmckpt::SystemError;

constexpr int kSocket = 3;

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

std::optional<vmckpt::TakeOptions> OptionsOf(std::span<char*> arguments) {
  if (arguments.size() < 2 || arguments.size() > 3) return std::nullopt;
  char* end;
  const long pid = std::strtol(arguments[1], &end, 10);
  const bool is_sandboxed = arguments.size() == 3;
  if (*end != '\0' || pid < 1) return std::nullopt;
  if (is_sandboxed && std::string_view(arguments[2]) != "--sandboxed") return std::nullopt;
  return vmckpt::TakeOptions{.pid = static_cast<pid_t>(pid), .is_sandboxed = is_sandboxed};
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = OptionsOf({argv, static_cast<size_t>(argc)});
  if (!options) {
    std::fprintf(stderr, "vmckpt-tracker PID [--sandboxed], with a unix socket as descriptor 3\n");
    return 2;
  }
  // While it waits for the thread, the thread stands still: not for the 50 µs that sleeps are usually rounded
  // up to.
  ::prctl(PR_SET_TIMERSLACK, 1);
  try {
    return Run(*options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "vmckpt-tracker: %s\n", error.what());
    return 1;
  }
}
