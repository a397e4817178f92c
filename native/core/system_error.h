// How native/core reports a failed system call: the errno value and the call's name.
#pragma once

#include <cerrno>
#include <cstring>
#include <exception>

namespace vmckpt {

class SystemError : public std::exception {
 public:
  SystemError(int error, const char* syscall) : error_(error), syscall_(syscall) {}

  int error() const { return error_; }
  /** Name of the call that failed; a string literal. */
  const char* syscall() const { return syscall_; }
  const char* what() const noexcept override { return std::strerror(error_); }

 private:
  int error_;
  const char* syscall_;
};

/** Passes a result that is not -1 through; throws SystemError with errno otherwise. */
template <typename Result>
Result Check(Result result, const char* syscall) {
  if (result == Result{-1}) throw SystemError(errno, syscall);
  return result;
}

/** Repeats a call for as long as a signal interrupts it. */
template <typename Call>
auto RetryOnSignal(Call call) {
  auto result = call();
  while (result == -1 && errno == EINTR) result = call();
  return result;
}

}  // namespace vmckpt
