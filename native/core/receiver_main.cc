// vmckpt-receiver DATA_SOCKET HANDOFF_SOCKET: see receiver.h. Exit codes: 0 done, 1 failed, 2 wrong usage.
#include <cstdio>

#include "core/receiver.h"
#include "core/system_error.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: vmckpt-receiver DATA_SOCKET HANDOFF_SOCKET\n");
    return 2;
  }
  try {
    vmckpt::RunReceiver({.data = argv[1], .handoff = argv[2]});
    return 0;
  } catch (const vmckpt::SystemError& error) {
    std::fprintf(stderr, "vmckpt-receiver: %s: %s\n", error.syscall(), error.what());
    return 1;
  }
}
