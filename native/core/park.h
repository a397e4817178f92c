// src/util/park.ts in C++: named points at which a test stops a process of ours.
#pragma once

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace vmckpt {

/** Whether VMCKPT_PARK (`taken,closed`) names the point. */
inline bool IsParkingWanted(std::string_view point) {
  const char* value = std::getenv("VMCKPT_PARK");
  std::string_view rest = value == nullptr ? "" : value;
  while (!rest.empty()) {
    const std::string_view wanted = rest.substr(0, rest.find(','));
    if (wanted == point) return true;
    rest.remove_prefix(wanted.size() < rest.size() ? wanted.size() + 1 : rest.size());
  }
  return false;
}

/** Waits for SIGCONT there, after it has said on standard error where it is. */
inline void ParkAt(const char* point) {
  if (!IsParkingWanted(point)) return;
  sigset_t released, before;
  ::sigemptyset(&released);
  ::sigaddset(&released, SIGCONT);
  ::sigprocmask(SIG_BLOCK, &released, &before);
  std::fprintf(stderr, "process %d is parked at %s\n", ::getpid(), point);
  int signal;
  ::sigwait(&released, &signal);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace vmckpt
