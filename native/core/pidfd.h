// Processes by descriptor: unlike a process id, a pidfd never comes to mean another process (pidfd_open(2)).
#pragma once

#include <sys/types.h>

#include "core/fd.h"

namespace vmckpt {

Fd PidfdOpen(pid_t pid);

/** A duplicate of the process's descriptor `target_fd`; needs the right to ptrace it (pidfd_getfd(2)). */
Fd PidfdGetfd(int pidfd, int target_fd);

void PidfdSendSignal(int pidfd, int signal);

}  // namespace vmckpt
