// What proc(5) says of a process or thread, and whether it can be traced.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>

namespace vmckpt {

class ProcessStatus {
 public:
  /** Throws Refusal `no-process`. */
  explicit ProcessStatus(pid_t pid);

  /** Empty when the kernel does not tell. */
  std::string Text(const char* key) const;
  /** 0 when the kernel does not tell. */
  long Number(const char* key) const;

 private:
  std::map<std::string, std::string> lines_;
};

/** Throws Refusal: `no-process`, `traced`, `stopped`. */
void RequireTraceable(pid_t pid);

/** Why the kernel does not let us trace the process, as a clause. */
std::string WhyNotPermitted(pid_t pid);

}  // namespace vmckpt
