// vmckpt-no-holes PROGRAM ARGUMENTS…: executes the program, for which fallocate(2) fails as on a file system
// that lacks it. A QEMU that has opened the file of its memory for writing then cannot punch holes into it.
// This holds for every descendant. Exit codes: 2 wrong usage, 127 the program cannot be run.
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <iterator>

#include "core/system_error.h"

namespace {

constexpr int kNotExecuted = 127;

void DenyFallocate() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fallocate, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{.len = std::size(filter), .filter = filter};
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0) return;
  // Without CAP_SYS_ADMIN, only a process that cannot gain rights any more may do this.
  vmckpt::Check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl");
  vmckpt::Check(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "prctl");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "vmckpt-no-holes PROGRAM [ARGUMENT...]\n");
    return 2;
  }
  try {
    DenyFallocate();
    vmckpt::Check(::execv(argv[1], argv + 1), "execv");
  } catch (const vmckpt::SystemError& error) {
    std::fprintf(stderr, "vmckpt-no-holes: %s: %s\n", error.syscall(), error.what());
  }
  return kNotExecuted;
}
