#include "core/pidfd.h"

#include <sys/syscall.h>

#include "core/system_error.h"

namespace vmckpt {

// By number: Debian 12's glibc has wrappers; Ubuntu's and older ones may not.
Fd PidfdOpen(pid_t pid) {
  return Fd(static_cast<int>(Check(::syscall(SYS_pidfd_open, pid, 0), "pidfd_open")));
}

Fd PidfdGetfd(int pidfd, int target_fd) {
  return Fd(static_cast<int>(Check(::syscall(SYS_pidfd_getfd, pidfd, target_fd, 0), "pidfd_getfd")));
}

void PidfdSendSignal(int pidfd, int signal) {
  Check(::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0), "pidfd_send_signal");
}

}  // namespace vmckpt
