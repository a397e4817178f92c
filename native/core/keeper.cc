#include "core/keeper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string_view>
#include <utility>

#include "core/debug.h"
#include "core/fd.h"
#include "core/keeper_children.h"
#include "core/system_error.h"
#include "core/unix_socket.h"

namespace vmckpt {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr size_t kSlots = 8;
/** After a server's line to the verb, and its holding line. */
constexpr int kFirstHeldFd = kFirstServerFd + 2;
constexpr size_t kLengthBytes = 4;
constexpr size_t kMaxStartBytes = 8 << 20;
constexpr size_t kReadBytes = 16 << 10;
constexpr seconds kGraceTime{10};
constexpr int kMaxRestartsInARow = 20;
/** Argument of a successor. */
constexpr const char* kSuccessorFlag = "--successor";
constexpr seconds kRowGap{60};

/** Returns the former score. */
OomScore EscapeOomKiller() {
  Fd file(::open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC));
  std::array<char, 16> before;
  ssize_t length = file ? ::pread(file.get(), before.data(), before.size(), 0) : -1;
  if (length <= 0) return {};
  // Only the superuser may lower it. Otherwise the kernel may choose this process, but it is tiny.
  (void)!::write(file.get(), "-1000", 5);
  return {before.data(), static_cast<size_t>(length)};
}

/** Ignores signals that end its parents. SIGCHLD and SIGUSR1 arrive through the returned descriptor. */
Fd TakeSignals() {
  // An ignored SIGCHLD would be inherited, and children would then vanish without a status.
  RestoreSignals();
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  sigset_t awaited;
  ::sigemptyset(&awaited);
  ::sigaddset(&awaited, SIGCHLD);
  ::sigaddset(&awaited, SIGUSR1);
  Check(::sigprocmask(SIG_BLOCK, &awaited, nullptr), "sigprocmask");
  return Fd(Check(::signalfd(-1, &awaited, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd"));
}

/** Closes all other descriptors: no connection may stay open because the keeper has a copy of it. */
void KeepOnly(const KeeperFds& fds) {
  // A kernel before 5.9 lacks this call, which does no harm: the program that starts the keeper passes
  // nothing else on.
  ::syscall(SYS_close_range, std::max(fds.verb, fds.server_line) + 1, ~0U, 0);
  for (int fd : {fds.verb, fds.server_line}) Check(::fcntl(fd, F_SETFD, FD_CLOEXEC), "fcntl");
}

short Poll(int fd, short events) {
  pollfd entry{.fd = fd, .events = events, .revents = 0};
  Check(RetryOnSignal([&] { return ::poll(&entry, 1, 0); }), "poll");
  return entry.revents;
}

/** The start message, which arrives in pieces of any size. */
class StartMessage {
 public:
  /** Number of bytes still to come: first those of the length, then those of the text. Throws EMSGSIZE. */
  size_t Missing() const {
    if (bytes_.size() < kLengthBytes) return kLengthBytes - bytes_.size();
    size_t length = 0;
    for (size_t i = 0; i < kLengthBytes; i++) length = length << 8 | static_cast<uint8_t>(bytes_[i]);
    if (length > kMaxStartBytes) throw SystemError(EMSGSIZE, "start");
    return kLengthBytes + length - bytes_.size();
  }

  void Append(std::string_view piece) { bytes_ += piece; }

  /** Throws EBADMSG unless it consists of at least three strings. */
  QemuStart Parse() const {
    std::vector<std::string> strings;
    std::string_view rest = std::string_view(bytes_).substr(kLengthBytes);
    for (size_t end; (end = rest.find('\0')) != rest.npos; rest.remove_prefix(end + 1))
      strings.emplace_back(rest.substr(0, end));
    if (!rest.empty() || strings.size() < 3) throw SystemError(EBADMSG, "start");
    return {.directory = strings[0], .log = strings[1], .argv = {strings.begin() + 2, strings.end()}};
  }

 private:
  std::string bytes_;
};

class Keeper {
 public:
  Keeper(const KeeperFds& fds, std::vector<std::string> server_argv)
      : fds_(fds),
        server_argv_(std::move(server_argv)),
        oom_score_(EscapeOomKiller()),
        signals_(TakeSignals()) {}

  int Run() {
    Debug("keeper", "begins");
    LaunchServer(server_argv_);
    while (!exit_code_) Step();
    return *exit_code_;
  }

 private:
  enum class Stage { kAwaitingStart, kServing, kLeaving };

  void Step() {
    bool listens = stage_ == Stage::kAwaitingStart;
    pollfd entries[] = {{.fd = holding_line_.get(), .events = POLLIN, .revents = 0},
                        {.fd = signals_.get(), .events = POLLIN, .revents = 0},
                        {.fd = listens ? fds_.verb : -1, .events = POLLIN, .revents = 0}};
    Check(RetryOnSignal([&] { return ::poll(entries, std::size(entries), TimeoutMs()); }), "poll");
    // Before the signals, which may replace the line that was polled.
    if (entries[0].revents != 0) TakeHoldingMessage();
    if (entries[1].revents != 0) HandleSignals();
    // After the signals, so that QEMU is not started when its server has just died.
    if (entries[2].revents != 0 && stage_ == Stage::kAwaitingStart && !exit_code_) ReadFromVerb();
    if (grace_end_ && steady_clock::now() >= *grace_end_) KillServer();
  }

  int TimeoutMs() const {
    if (!grace_end_) return -1;
    auto left = std::chrono::ceil<milliseconds>(*grace_end_ - steady_clock::now()).count();
    return static_cast<int>(std::max<int64_t>(left, 0));
  }

  // The line to the verb.

  template <typename... Arguments>
  void Tell(const char* format, Arguments... arguments) {
    char line[64];
    int length = std::snprintf(line, sizeof(line), format, arguments...);
    ssize_t sent = ::send(fds_.verb, line, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    Debug("keeper", "%.*s", length - 1, line);
    // A verb that does not read gets nothing more: it sees the end of the stream instead of missing a line.
    if (sent != length) ::shutdown(fds_.verb, SHUT_WR);
  }

  void TellEnd(const char* whose, int status) {
    if (WIFEXITED(status)) Tell("%sended %d\n", whose, WEXITSTATUS(status));
    if (WIFSIGNALED(status)) Tell("%skilled %d\n", whose, WTERMSIG(status));
  }

  void ReadFromVerb() {
    std::array<char, kReadBytes> piece;
    ssize_t length =
        ::recv(fds_.verb, piece.data(), std::min(piece.size(), start_message_.Missing()), MSG_DONTWAIT);
    if (length == -1 && (errno == EAGAIN || errno == EINTR)) return;
    if (length <= 0) return Leave(seconds(0), 0);
    try {
      start_message_.Append({piece.data(), static_cast<size_t>(length)});
      if (start_message_.Missing() == 0) LaunchQemu(std::exchange(start_message_, {}).Parse());
    } catch (const SystemError& error) {
      std::fprintf(stderr, "vmckpt-keeper: %s: %s\n", error.syscall(), error.what());
      Leave(seconds(0), 1);
    }
  }

  // The children.

  void LaunchQemu(const QemuStart& start) {
    auto started = StartQemu(start, oom_score_);
    if (auto* failure = std::get_if<StartFailure>(&started))
      return Tell("failed %s %d\n", failure->step, failure->error);
    qemu_ = std::get<pid_t>(started);
    stage_ = Stage::kServing;
    Tell("started %d\n", qemu_);
  }

  void LaunchServer(std::vector<std::string> argv) {
    int ends[2];
    Check(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), "socketpair");
    Fd own_end(ends[0]);
    Fd servers_end(ends[1]);
    ServerStart start{.argv = std::move(argv), .fds = {fds_.server_line, servers_end.get()}, .held = ""};
    PassHeldOn(start);
    server_ = StartServer(start, oom_score_);
    holding_line_ = std::move(own_end);
    Tell("server %d\n", server_);
  }

  void LaunchSuccessor() {
    Debug("keeper", "starts a successor, %d in a row", restarts_in_a_row_);
    std::vector<std::string> argv = server_argv_;
    argv.push_back(kSuccessorFlag);
    try {
      LaunchServer(std::move(argv));
    } catch (const SystemError& error) {
      // QEMU and the held descriptors stay; SIGUSR1 tries again.
      std::fprintf(stderr, "vmckpt-keeper: no successor: %s: %s\n", error.syscall(), error.what());
    }
  }

  void HandleSignals() {
    bool successor_wanted = false;
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info))
      if (info.ssi_signo == SIGUSR1) successor_wanted = true;
    // QEMU first: without it no server is restarted. Both before SIGUSR1, whose sender may already know that
    // the server has ended.
    if (auto status = Reap(qemu_)) OnQemuEnd(*status);
    if (auto status = Reap(server_)) OnServerEnd(*status);
    if (successor_wanted && stage_ == Stage::kServing && server_ == 0 && !exit_code_) {
      restarts_in_a_row_ = 0;
      LaunchSuccessor();
    }
  }

  /** How the process ended, if it has; then `pid` becomes 0. */
  static std::optional<int> Reap(pid_t& pid) {
    int status;
    if (pid == 0 || ::waitpid(pid, &status, WNOHANG) != pid) return std::nullopt;
    pid = 0;
    return status;
  }

  void OnQemuEnd(int status) {
    TellEnd("", status);
    Leave(kGraceTime, 0);
  }

  void OnServerEnd(int status) {
    // Messages that it sent before it died count.
    while (holding_line_ && Poll(holding_line_.get(), POLLIN) != 0) TakeHoldingMessage();
    holding_line_.Reset();
    TellEnd("server-", status);
    bool exited = WIFEXITED(status);
    if (stage_ == Stage::kLeaving) return Exit(leaving_code_);
    // The transfer is complete.
    if (exited && WEXITSTATUS(status) == 0) return Exit(0);
    if (stage_ == Stage::kAwaitingStart) return Exit(1);
    // It has reported why, and a successor would fail in the same way. QEMU must see that its connection is
    // gone.
    if (exited) return DropHeld();
    if (CountRestart()) LaunchSuccessor();
  }

  /** False after too many restarts. */
  bool CountRestart() {
    auto now = steady_clock::now();
    bool in_a_row = last_restart_ && now - *last_restart_ <= kRowGap;
    restarts_in_a_row_ = in_a_row ? restarts_in_a_row_ + 1 : 1;
    last_restart_ = now;
    return restarts_in_a_row_ <= kMaxRestartsInARow;
  }

  /** Ends when the server has ended. A server that does not end by itself is killed. */
  void Leave(seconds grace_time, int code) {
    if (server_ == 0) return Exit(code);
    stage_ = Stage::kLeaving;
    leaving_code_ = code;
    grace_end_ = steady_clock::now() + grace_time;
  }

  void KillServer() {
    grace_end_.reset();
    if (server_ != 0) ::kill(server_, SIGKILL);
  }

  void Exit(int code) {
    Debug("keeper", "ends with exit code %d", code);
    exit_code_ = code;
  }

  // Held descriptors.

  void TakeHoldingMessage() {
    Message message =
        ReceiveFds(holding_line_.get(), {.max_bytes = 2, .max_fds = 2, .timeout_ms = 0, .cancel_fd = -1});
    // An empty message looks like the end of the stream, but then the peer has not hung up.
    if (message.payload.empty() && Poll(holding_line_.get(), POLLRDHUP) != 0) return holding_line_.Reset();
    if (message.payload.size() != 1 || message.payload[0] >= kSlots || message.fds.size() > 1) return;
    held_[message.payload[0]] = message.fds.empty() ? Fd() : std::move(message.fds[0]);
  }

  void PassHeldOn(ServerStart& start) const {
    int fd = kFirstHeldFd;
    for (size_t slot = 0; slot < kSlots; slot++) {
      if (!held_[slot]) continue;
      start.fds.push_back(held_[slot].get());
      if (!start.held.empty()) start.held += ',';
      start.held.append(std::to_string(slot)).append("=").append(std::to_string(fd++));
    }
  }

  void DropHeld() {
    for (Fd& fd : held_) fd.Reset();
  }

  const KeeperFds fds_;
  const std::vector<std::string> server_argv_;
  const OomScore oom_score_;
  const Fd signals_;
  Stage stage_ = Stage::kAwaitingStart;
  StartMessage start_message_;
  /** 0: no QEMU. */
  pid_t qemu_ = 0;
  pid_t server_ = 0;
  /** Leads to the living server, until it closes its end. */
  Fd holding_line_;
  std::array<Fd, kSlots> held_;
  int restarts_in_a_row_ = 0;
  std::optional<steady_clock::time_point> last_restart_;
  std::optional<steady_clock::time_point> grace_end_;
  int leaving_code_ = 0;
  std::optional<int> exit_code_;
};

}  // namespace

int RunKeeper(const KeeperFds& fds, std::vector<std::string> server_argv) {
  // Fails for a process that already leads a session, which is just as good.
  ::setsid();
  KeepOnly(fds);
  return Keeper(fds, std::move(server_argv)).Run();
}

std::string KeeperConstants() {
  auto line = [](const char* name, const std::string& value) {
    return std::string(name) + "=" + value + "\n";
  };
  return line("slots", std::to_string(kSlots)) + line("firstServerFd", std::to_string(kFirstServerFd)) +
         line("firstHeldFd", std::to_string(kFirstHeldFd)) +
         line("maxRestartsInARow", std::to_string(kMaxRestartsInARow)) +
         line("successorFlag", kSuccessorFlag);
}

}  // namespace vmckpt
