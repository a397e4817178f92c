// Starts the keeper's two children: what happens between fork and exec.
//
// The children do not inherit what is special about the keeper: its ignored signals, its protection from the
// OOM killer, or descriptors that are not named here.
#pragma once

#include <sys/types.h>

#include <string>
#include <variant>
#include <vector>

namespace vmckpt {

/** The first of a server's descriptors after the standard ones. */
constexpr int kFirstServerFd = 3;

struct ServerStart {
  /** argv[0] is the program's path. */
  std::vector<std::string> argv;
  /** They become descriptors 3, 4, 5… of the server. */
  std::vector<int> fds;
  /** Slots and numbers of the descriptors that it inherits, for VMCKPT_HELD. */
  std::string held;
};

struct QemuStart {
  std::string directory;
  /** The file to which QEMU's standard output and error are appended. */
  std::string log;
  /** argv[0] is the program's absolute path. */
  std::vector<std::string> argv;
};

struct StartFailure {
  /** log, chdir, exec or fork; a string literal. */
  const char* step;
  int error;
};

/** The keeper's initial score, which children get back; empty where /proc does not show it. */
using OomScore = std::string;

/** Sets signals as in a fresh process: default dispositions, an empty mask. */
void RestoreSignals();

/** Throws SystemError when it cannot fork. A server that cannot be executed exits with 127. */
pid_t StartServer(const ServerStart& start, const OomScore& oom_score);

/** Returns when QEMU has been executed, or the reason why not. */
std::variant<pid_t, StartFailure> StartQemu(const QemuStart& start, const OomScore& oom_score);

}  // namespace vmckpt
