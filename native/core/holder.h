// Keeps a userfaultfd between two saves of a VM (save --track), and with it the tracking of its writes. It is
// a process of its own and not a descriptor left in QEMU: QEMU's table stays as it is, other tools find no
// userfaultfd there that they would take for one of QEMU's, the owner can be seen and ended, and whatever
// kills it, the kernel drops the protection with the last descriptor.
//
// It listens on a unix socket, for the same user and root, one connection at a time; the first is given by
// the save that starts it, which has the tracking in use. On each other one it first sends its note: a line
// that says with what the tracking began, and means nothing to it. Then, line by line:
//   take        sends the note with the descriptor. The tracking is in use from now on.
//   keep NOTE   it goes on, with this note; sends it back.
//   end         it ends.
// A connection that ends while the tracking is in use has told nobody what was taken: the tracking ends, too.
// It also ends with the process that is tracked, and by SIGTERM.
#pragma once

#include <sys/types.h>

#include <string>

#include "core/fd.h"

namespace vmckpt {

struct HolderOptions {
  pid_t pid;
  /** Absolute. */
  std::string socket_path;
};

/** Returns when it has ended. */
void RunHolder(const HolderOptions& options, Fd userfaultfd, Fd session);

}  // namespace vmckpt
