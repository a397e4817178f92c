#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string_view>

namespace vmckpt {

/** Whether VMCKPT_DEBUG requests lines of that area: src/util/debug.ts in C++. */
inline bool IsDebugging(std::string_view area) {
  const char* value = std::getenv("VMCKPT_DEBUG");
  if (value == nullptr) return false;
  std::string_view rest = value;
  while (!rest.empty()) {
    std::string_view wanted = rest.substr(0, rest.find(','));
    if (wanted == "1" || wanted == "all" || wanted == area) return true;
    rest.remove_prefix(std::min(rest.size(), wanted.size() + 1));
  }
  return false;
}

/** Prints `time pid area: text` to standard error with one system call, if the area is being debugged. */
template <typename... Arguments>
void Debug(const char* area, const char* format, Arguments... arguments) {
  if (!IsDebugging(area)) return;
  using namespace std::chrono;
  auto now = system_clock::now();
  std::time_t seconds = system_clock::to_time_t(now);
  auto ms = static_cast<int>(duration_cast<milliseconds>(now.time_since_epoch()).count() % 1000);
  std::tm utc;
  ::gmtime_r(&seconds, &utc);
  char text[256];
  std::snprintf(text, sizeof(text), format, arguments...);
  char time[32];
  std::strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%S", &utc);
  char line[384];
  int length = std::snprintf(line, sizeof(line), "%s.%03dZ %d %s: %s\n", time, ms, ::getpid(), area, text);
  (void)!::write(STDERR_FILENO, line, length);
}

}  // namespace vmckpt
