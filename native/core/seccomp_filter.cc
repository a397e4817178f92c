#include "core/seccomp_filter.h"

#include <sys/ptrace.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "core/system_error.h"

namespace vmckpt {

namespace {

constexpr auto kGetFilter = static_cast<__ptrace_request>(0x420c);

/** The machine of a classic BPF program: an accumulator, an index and a little memory. */
struct Machine {
  uint32_t a = 0;
  uint32_t x = 0;
  std::array<uint32_t, BPF_MEMWORDS> memory{};
};

uint32_t Computed(uint16_t operation, uint32_t a, uint32_t operand) {
  switch (operation) {
    case BPF_ADD:
      return a + operand;
    case BPF_SUB:
      return a - operand;
    case BPF_MUL:
      return a * operand;
    case BPF_DIV:
      return operand == 0 ? 0 : a / operand;
    case BPF_OR:
      return a | operand;
    case BPF_AND:
      return a & operand;
    case BPF_LSH:
      return operand < 32 ? a << operand : 0;
    case BPF_RSH:
      return operand < 32 ? a >> operand : 0;
    case BPF_XOR:
      return a ^ operand;
    default:
      return 0 - a;
  }
}

bool Holds(uint16_t condition, uint32_t a, uint32_t operand) {
  switch (condition) {
    case BPF_JEQ:
      return a == operand;
    case BPF_JGT:
      return a > operand;
    case BPF_JGE:
      return a >= operand;
    default:
      return (a & operand) != 0;
  }
}

uint32_t Loaded(const sock_filter& step, const Machine& machine, const seccomp_data& call) {
  switch (BPF_MODE(step.code)) {
    case BPF_ABS: {
      uint32_t word = 0;
      if (step.k <= sizeof(call) - sizeof(word))
        std::memcpy(&word, reinterpret_cast<const char*>(&call) + step.k, sizeof(word));
      return word;
    }
    case BPF_MEM:
      return step.k < BPF_MEMWORDS ? machine.memory[step.k] : 0;
    case BPF_LEN:
      return sizeof(call);
    default:
      return step.k;
  }
}

}  // namespace

std::vector<SeccompFilter> SeccompFiltersOf(pid_t thread) {
  std::vector<SeccompFilter> filters;
  for (unsigned long at = 0;; at++) {
    long length = ::ptrace(kGetFilter, thread, at, nullptr);
    if (length == -1 && errno == ENOENT) return filters;
    SeccompFilter filter(Check(length, "ptrace"));
    Check(::ptrace(kGetFilter, thread, at, filter.data()), "ptrace");
    filters.push_back(std::move(filter));
  }
}

uint32_t VerdictOf(std::span<const sock_filter> filter, const seccomp_data& call) {
  Machine machine;
  for (size_t at = 0; at < filter.size(); at++) {
    const sock_filter& step = filter[at];
    const uint32_t operand = BPF_SRC(step.code) == BPF_X ? machine.x : step.k;
    switch (BPF_CLASS(step.code)) {
      case BPF_LD:
        machine.a = Loaded(step, machine, call);
        break;
      case BPF_LDX:
        machine.x = Loaded(step, machine, call);
        break;
      case BPF_ST:
      case BPF_STX:
        if (step.k < BPF_MEMWORDS)
          machine.memory[step.k] = BPF_CLASS(step.code) == BPF_ST ? machine.a : machine.x;
        break;
      case BPF_ALU:
        machine.a = Computed(BPF_OP(step.code), machine.a, operand);
        break;
      case BPF_JMP:
        at += BPF_OP(step.code) == BPF_JA                    ? step.k
              : Holds(BPF_OP(step.code), machine.a, operand) ? step.jt
                                                             : step.jf;
        break;
      case BPF_MISC:
        if (BPF_MISCOP(step.code) == BPF_TAX) machine.x = machine.a;
        if (BPF_MISCOP(step.code) == BPF_TXA) machine.a = machine.x;
        break;
      case BPF_RET:
        return (BPF_RVAL(step.code) == BPF_A ? machine.a : step.k) & SECCOMP_RET_ACTION_FULL;
    }
  }
  return SECCOMP_RET_KILL_PROCESS;
}

}  // namespace vmckpt
