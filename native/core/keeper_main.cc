// vmckpt-keeper SERVER_PROGRAM [SERVER_ARGS…]: see keeper.h. `vmckpt-keeper --constants` prints its numbers.
// Descriptor 3 is the line to the verb, 4 the server's line to it. Exit codes: 0 done, 1 failed, 2 wrong
// usage.
#include <sys/stat.h>

#include <cstdio>
#include <string_view>

#include "core/keeper.h"
#include "core/system_error.h"

namespace {

constexpr vmckpt::KeeperFds kFds{.verb = 3, .server_line = 4};

bool IsSocket(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--constants") {
    std::fputs(vmckpt::KeeperConstants().c_str(), stdout);
    return 0;
  }
  if (argc < 2 || !IsSocket(kFds.verb) || !IsSocket(kFds.server_line)) {
    std::fprintf(stderr, "vmckpt-keeper is started by vmckpt restore only\n");
    return 2;
  }
  try {
    return vmckpt::RunKeeper(kFds, {argv + 1, argv + argc});
  } catch (const vmckpt::SystemError& error) {
    std::fprintf(stderr, "vmckpt-keeper: %s: %s\n", error.syscall(), error.what());
    return 1;
  }
}
