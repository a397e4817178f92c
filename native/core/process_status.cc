#include "core/process_status.h"

#include <cstdlib>
#include <fstream>

#include "core/refusal.h"

namespace vmckpt {

namespace {

std::string FirstLine(const std::string& path) {
  std::string line;
  std::ifstream file(path);
  std::getline(file, line);
  return line;
}

std::string NameOf(long pid) { return FirstLine("/proc/" + std::to_string(pid) + "/comm"); }

std::string TracerText(long tracer) {
  return "process " + std::to_string(tracer) + " (" + NameOf(tracer) + ") traces it";
}

}  // namespace

ProcessStatus::ProcessStatus(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(":");
    const size_t value = line.find_first_not_of(" \t", colon + 1);
    if (colon != line.npos) lines_[line.substr(0, colon)] = value == line.npos ? "" : line.substr(value);
  }
  if (lines_.empty()) throw Refusal("no-process", "there is no process " + std::to_string(pid));
}

std::string ProcessStatus::Text(const char* key) const {
  const auto found = lines_.find(key);
  return found == lines_.end() ? "" : found->second;
}

long ProcessStatus::Number(const char* key) const { return std::strtol(Text(key).c_str(), nullptr, 10); }

void RequireTraceable(pid_t pid) {
  const ProcessStatus status(pid);
  if (const long tracer = status.Number("TracerPid"); tracer != 0)
    throw Refusal("traced", TracerText(tracer));
  const std::string state = status.Text("State");
  if (state.starts_with("Z") || state.starts_with("X")) throw Refusal("no-process", "it has ended");
  if (state.starts_with("T")) throw Refusal("stopped", "it is stopped by a signal");
}

std::string WhyNotPermitted(pid_t pid) {
  if (const long tracer = ProcessStatus(pid).Number("TracerPid"); tracer != 0) return TracerText(tracer);
  const std::string scope = FirstLine("/proc/sys/kernel/yama/ptrace_scope");
  if (scope.empty() || scope == "0") return "this user may not trace it";
  return "this user may not trace it (kernel.yama.ptrace_scope is " + scope + ")";
}

}  // namespace vmckpt
