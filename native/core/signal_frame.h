// A stopped thread that puts itself back: the frame that the kernel would write on its stack for a signal
// handler, written by us. When the thread makes rt_sigreturn(2) on it, the kernel restores all registers, the
// vector registers and the signal mask at once, as if a handler had run.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace vmckpt {

/** Where in the process there are instructions that its own code consists of anyway. */
struct BorrowedCode {
  /** `syscall; ret` */
  uint64_t call_and_return;
  /** What a signal handler returns to: makes rt_sigreturn(2). */
  uint64_t restore;
};

/** Searches the process's executable mappings. Throws Refusal `no-code`. */
BorrowedCode FindCode(pid_t pid);

struct SignalFrame {
  /** Its place: a return from there makes the thread restore itself. */
  uint64_t address;
  std::vector<uint8_t> bytes;
};

/** Throws Refusal `architecture` when the thread does not run the code that we know. */
void RequireKnownCode(const user_regs_struct& registers);

/**
 * For a stopped thread that will go on as the kernel would let it go on: a call that was interrupted is made
 * again. Nothing where that cannot be said, because the thread does not stand behind a system call, or in one
 * that only the kernel can restart. `registers` are the thread's.
 */
std::optional<SignalFrame> FrameOf(pid_t thread, const BorrowedCode& code, const user_regs_struct& registers);

struct RemoteCall {
  long number;
  uint64_t argument;
};

/** With these a thread makes the call, and restores itself behind it. */
user_regs_struct CallRegisters(const BorrowedCode& code, const SignalFrame& frame,
                               const user_regs_struct& before, RemoteCall call);

/** What a call that has just ended returns: an errno value below 0 when it failed. */
int64_t CallResult(const user_regs_struct& registers);

}  // namespace vmckpt
