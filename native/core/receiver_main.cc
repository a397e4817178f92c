// vmckpt-receiver: see receiver.h. Standard input is the consumer, descriptor 3 the read end of the
// stream's pipe. Exit codes: 0 done, 1 failed, 2 wrong usage.
#include <unistd.h>

#include <cstdio>

#include "core/receiver.h"
#include "core/system_error.h"

namespace {

constexpr int kStreamFd = 3;

}  // namespace

int main(int argc, char**) {
  if (argc != 1) {
    std::fprintf(stderr, "vmckpt-receiver is started by vmckpt save only\n");
    return 2;
  }
  try {
    vmckpt::RunReceiver({.consumer = STDIN_FILENO, .stream = kStreamFd});
    return 0;
  } catch (const vmckpt::SystemError& error) {
    std::fprintf(stderr, "vmckpt-receiver: %s: %s\n", error.syscall(), error.what());
    return 1;
  }
}
