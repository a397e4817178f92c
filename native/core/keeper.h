// The keeper: parent of a QEMU that is being restored and of the *server*, which serves this QEMU's memory.
//
// Why it exists: a server may die at any moment, and what its successor needs must survive: the descriptors
// of the transfer, which the server deposits with the keeper, and the right to ptrace QEMU, which a server
// has as a descendant of QEMU's parent. So this process, which does next to nothing, lives as long as the
// transfer, and restarts the server. The verb may end once QEMU runs; if it ends before, everything is
// undone.
//
// Messages:
// - Verb to keeper: be32 length, and as many bytes of NUL-terminated strings: QEMU's directory, its log
//   file, its argv. Once; again only if QEMU could not be started.
// - Keeper to verb, in lines: "started PID", "failed STEP ERRNO", "ended CODE", "killed SIGNAL" of QEMU;
//   "server PID", "server-ended CODE", "server-killed SIGNAL".
// - Server to keeper: one byte, the number of a slot (0 to 7), with a descriptor to hold there, or without
//   one to close the held one.
#pragma once

#include <string>
#include <vector>

namespace vmckpt {

struct KeeperFds {
  /** A unix stream socket. */
  int verb;
  /** The server's own line to the verb, which the keeper only passes on. */
  int server_line;
};

/** Serves one restore, and returns its exit code: 0 done, 1 without a QEMU. Throws SystemError. */
int RunKeeper(const KeeperFds& fds, std::vector<std::string> server_argv);

/** The numbers that src/ also has, as lines of "name=value". */
std::string KeeperConstants();

}  // namespace vmckpt
