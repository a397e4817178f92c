// How the keeper's two children come to be: what happens between fork and exec.
//
// Neither gets anything of what the keeper is for itself: not its ignored signals, not its protection from
// the OOM killer, and no descriptor that is not named here.
#pragma once

#include <sys/types.h>

#include <string>
#include <variant>
#include <vector>

namespace vmckpt {

/** The first of a server's descriptors behind the standard ones. */
constexpr int kFirstServerFd = 3;

struct ServerStart {
  /** argv[0] is the program's path. */
  std::vector<std::string> argv;
  /** They become descriptors 3, 4, 5… of the server. */
  std::vector<int> fds;
  /** Slots and descriptors of what it inherits, for VMCKPT_HELD. */
  std::string held;
};

struct QemuStart {
  std::string directory;
  /** QEMU's standard output and error are appended to it. */
  std::string log;
  /** argv[0] is the program's absolute path. */
  std::vector<std::string> argv;
};

struct StartFailure {
  /** log, chdir, exec or fork; a string literal. */
  const char* step;
  int error;
};

/** What children get back of what the keeper was given itself; empty where /proc does not tell. */
using OomScore = std::string;

/** Signals as in a fresh process: default dispositions, an empty mask. */
void RestoreSignals();

/** Throws SystemError when it cannot fork. A server that cannot be executed exits with 127. */
pid_t StartServer(const ServerStart& start, const OomScore& oom_score);

/** Returns when QEMU has been executed, or why not. */
std::variant<pid_t, StartFailure> StartQemu(const QemuStart& start, const OomScore& oom_score);

}  // namespace vmckpt
