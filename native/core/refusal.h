// What vmckpt-tracker cannot or will not do, and why.
#pragma once

#include <stdexcept>
#include <string>

namespace vmckpt {

/** `reason` is one of those that src/native/tracker.ts knows, `what()` a clause for the user. */
class Refusal : public std::runtime_error {
 public:
  Refusal(const char* reason, const std::string& text) : std::runtime_error(text), reason_(reason) {}

  const char* reason() const { return reason_; }

 private:
  const char* reason_;
};

}  // namespace vmckpt
