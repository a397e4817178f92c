#if defined(__x86_64__)

#include <elf.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "core/process_memory.h"
#include "core/refusal.h"
#include "core/signal_frame.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** struct sigcontext and struct ucontext of the kernel, arch/x86/include/uapi/asm: what rt_sigreturn reads.
 */
struct KernelContext {
  uint64_t flags;
  uint64_t link;
  struct {
    uint64_t pointer;
    int32_t flags;
    int32_t padding;
    uint64_t bytes;
  } stack;
  struct {
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
    uint16_t cs, gs, fs, ss;
    uint64_t error, trap, old_mask, cr2;
    uint64_t vectors;
    uint64_t reserved[8];
  } machine;
  uint64_t signal_mask;
};

/** struct rt_sigframe: what the thread returns to lies in front. */
struct Frame {
  uint64_t return_to;
  KernelContext context;
};

// asm/ucontext.h: the vector registers are an XSAVE area; `ss` is meant as it stands there.
constexpr uint64_t kHasXsave = 1;
constexpr uint64_t kHasStackSegment = 2 | 4;
/**
 * No mode of sigaltstack(2): rt_sigreturn then leaves the thread's alternate stack as it is. ptrace(2) could
 * not have told us what to restore.
 */
constexpr int32_t kLeaveAlternateStack = 0x40;

// asm/sigcontext.h: struct _fpx_sw_bytes, in a part of the FXSAVE area that is software's own.
struct VectorMarks {
  uint32_t magic;
  uint32_t bytes_with_end;
  uint64_t features;
  uint32_t bytes;
};
constexpr size_t kMarksOffset = 464;
constexpr uint32_t kMagic = 0x46505853;
constexpr uint32_t kEndMagic = 0x46505845;
constexpr size_t kVectorsAlignment = 64;
constexpr size_t kMaxVectorBytes = 64 * 1024;
/** Below the stack pointer a function may keep what it likes (x86-64 psABI). */
constexpr size_t kRedZoneBytes = 128;

constexpr uint16_t kCodeSegment64 = 0x33;
constexpr uint64_t kX32Call = 0x40000000;
/** Above it there is the kernel, and the vsyscall page. */
constexpr uint64_t kUserEnd = uint64_t{1} << 47;
constexpr uint8_t kSyscallInstruction[] = {0x0f, 0x05};

// linux/errno.h, not for programs: what an interrupted call leaves in rax for the kernel itself.
constexpr int64_t kRestartSystem = -512, kRestartNoInterrupt = -513, kRestartNoHandler = -514;
constexpr int64_t kRestartBlock = -516;

bool IsBehindCall(pid_t thread, const user_regs_struct& registers) {
  const auto call = static_cast<int64_t>(registers.orig_rax);
  if (call < 0 || registers.orig_rax >= kX32Call) return false;
  if (registers.rip >= kUserEnd || registers.rsp >= kUserEnd) return false;
  uint8_t code[sizeof(kSyscallInstruction)];
  return ReadProcessMemory(thread, registers.rip - sizeof(code), code, sizeof(code)) == sizeof(code) &&
         std::memcmp(code, kSyscallInstruction, sizeof(code)) == 0;
}

/** As the kernel does it when no handler is called: the thread makes an interrupted call again. */
bool LetRestart(user_regs_struct& registers) {
  switch (static_cast<int64_t>(registers.rax)) {
    case kRestartBlock:
      return false;
    case kRestartSystem:
    case kRestartNoInterrupt:
    case kRestartNoHandler:
      registers.rax = registers.orig_rax;
      registers.rip -= sizeof(kSyscallInstruction);
  }
  return true;
}

struct Vectors {
  std::vector<uint8_t> bytes;
  bool is_xsave;
};

std::optional<std::vector<uint8_t>> RegisterSet(pid_t thread, int kind) {
  std::vector<uint8_t> bytes(kMaxVectorBytes);
  iovec vector{.iov_base = bytes.data(), .iov_len = bytes.size()};
  if (::ptrace(PTRACE_GETREGSET, thread, kind, &vector) == -1) return std::nullopt;
  bytes.resize(vector.iov_len);
  return bytes;
}

Vectors VectorsOf(pid_t thread) {
  auto bytes = RegisterSet(thread, NT_X86_XSTATE);
  if (!bytes) return {.bytes = RegisterSet(thread, NT_PRFPREG).value(), .is_xsave = false};
  VectorMarks marks{.magic = kMagic,
                    .bytes_with_end = static_cast<uint32_t>(bytes->size() + sizeof(kEndMagic)),
                    .features = 0,
                    .bytes = static_cast<uint32_t>(bytes->size())};
  // ptrace(2) tells there which registers the system knows.
  std::memcpy(&marks.features, bytes->data() + kMarksOffset, sizeof(marks.features));
  std::memcpy(bytes->data() + kMarksOffset, &marks, sizeof(marks));
  const auto* end = reinterpret_cast<const uint8_t*>(&kEndMagic);
  bytes->insert(bytes->end(), end, end + sizeof(kEndMagic));
  return {.bytes = std::move(*bytes), .is_xsave = true};
}

void FillMachine(KernelContext& context, const user_regs_struct& from) {
  auto& to = context.machine;
  to.r8 = from.r8, to.r9 = from.r9, to.r10 = from.r10, to.r11 = from.r11;
  to.r12 = from.r12, to.r13 = from.r13, to.r14 = from.r14, to.r15 = from.r15;
  to.rdi = from.rdi, to.rsi = from.rsi, to.rbp = from.rbp, to.rbx = from.rbx;
  to.rdx = from.rdx, to.rax = from.rax, to.rcx = from.rcx, to.rsp = from.rsp;
  to.rip = from.rip, to.eflags = from.eflags;
  to.cs = static_cast<uint16_t>(from.cs), to.ss = static_cast<uint16_t>(from.ss);
}

}  // namespace

void RequireKnownCode(const user_regs_struct& registers) {
  if (registers.cs != kCodeSegment64) throw Refusal("architecture", "it runs 32-bit code");
}

user_regs_struct CallRegisters(const BorrowedCode& code, const SignalFrame& frame,
                               const user_regs_struct& before, RemoteCall call) {
  user_regs_struct registers = before;
  registers.rip = code.call_and_return;
  registers.rsp = frame.address;
  registers.rax = static_cast<uint64_t>(call.number);
  registers.rdi = call.argument;
  // It is not in a call that the kernel would restart.
  registers.orig_rax = ~uint64_t{0};
  return registers;
}

int64_t CallResult(const user_regs_struct& registers) { return static_cast<int64_t>(registers.rax); }

std::optional<SignalFrame> FrameOf(pid_t thread, const BorrowedCode& code, const user_regs_struct& at) {
  user_regs_struct registers = at;
  if (!IsBehindCall(thread, registers) || !LetRestart(registers)) return std::nullopt;
  const Vectors vectors = VectorsOf(thread);
  const uint64_t vectors_at =
      (at.rsp - kRedZoneBytes - vectors.bytes.size()) / kVectorsAlignment * kVectorsAlignment;
  // 16 bytes apart from where a handler's stack would begin: as after a call.
  const uint64_t address = (vectors_at - sizeof(Frame)) / 16 * 16 - 8;
  Frame frame{.return_to = code.restore, .context = {}};
  frame.context.flags = kHasStackSegment | (vectors.is_xsave ? kHasXsave : 0);
  frame.context.stack.flags = kLeaveAlternateStack;
  FillMachine(frame.context, registers);
  frame.context.machine.vectors = vectors_at;
  const auto mask_bytes = sizeof(frame.context.signal_mask);
  Check(::ptrace(PTRACE_GETSIGMASK, thread, mask_bytes, &frame.context.signal_mask), "ptrace");

  std::vector<uint8_t> bytes(vectors_at - address + vectors.bytes.size());
  std::memcpy(bytes.data(), &frame, sizeof(frame));
  std::copy(vectors.bytes.begin(), vectors.bytes.end(), bytes.begin() + (vectors_at - address));
  return SignalFrame{.address = address, .bytes = std::move(bytes)};
}

}  // namespace vmckpt

#endif
