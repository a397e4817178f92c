#include "core/holder.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <cstdint>
#include <string_view>
#include <utility>

#include "core/pidfd.h"
#include "core/system_error.h"
#include "core/unix_socket.h"

namespace vmckpt {

namespace {

constexpr size_t kMaxLineBytes = 16384;

/** Readable when the process is to end. */
Fd EndSignals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  Check(::sigprocmask(SIG_BLOCK, &signals, nullptr), "sigprocmask");
  return Fd(Check(::signalfd(-1, &signals, SFD_CLOEXEC), "signalfd"));
}

class Holder {
 public:
  Holder(const HolderOptions& options, Fd userfaultfd, Fd session)
      : end_signals_(EndSignals()),
        process_(PidfdOpen(options.pid)),
        listener_(ListenUnix(options.socket_path)),
        session_(std::move(session)),
        userfaultfd_(std::move(userfaultfd)) {}

  void Run() {
    while (!has_ended_) {
      pollfd entries[] = {
          {.fd = process_.get(), .events = POLLIN, .revents = 0},
          {.fd = end_signals_.get(), .events = POLLIN, .revents = 0},
          {.fd = session_ ? session_.get() : listener_.get(), .events = POLLIN, .revents = 0}};
      Check(RetryOnSignal([&] { return ::poll(entries, 3, -1); }), "poll");
      if (entries[0].revents != 0 || entries[1].revents != 0) return;
      try {
        if (session_)
          Listen();
        else
          Accept();
      } catch (const SystemError&) {
        // The other side has gone in the middle.
        EndSession();
      }
    }
  }

 private:
  void Accept() {
    session_ = Fd(Check(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept"));
    const uid_t peer = PeerCredentials(session_.get()).uid;
    if (peer == 0 || peer == ::geteuid())
      Answer({});
    else
      session_.Reset();
  }

  void Listen() {
    char bytes[kMaxLineBytes];
    const ssize_t length = RetryOnSignal([&] { return ::recv(session_.get(), bytes, sizeof(bytes), 0); });
    if (Check(length, "recv") == 0) return EndSession();
    line_.append(bytes, static_cast<size_t>(length));
    const size_t end = line_.find('\n');
    if (end == line_.npos && line_.size() < kMaxLineBytes) return;
    Obey(std::string_view(line_).substr(0, end));
    line_.clear();
  }

  void Obey(std::string_view line) {
    if (line == "take") {
      is_in_use_ = true;
      const int fd = userfaultfd_.get();
      Answer({&fd, 1});
    } else if (line.starts_with("keep ") && is_in_use_) {
      note_ = line.substr(5);
      is_in_use_ = false;
      Answer({});
    } else if (line == "end") {
      has_ended_ = true;
    } else {
      EndSession();
    }
  }

  void EndSession() {
    has_ended_ = has_ended_ || is_in_use_;
    session_.Reset();
    line_.clear();
  }

  void Answer(std::span<const int> fds) {
    const std::string line = note_ + '\n';
    SendFds(session_.get(), {reinterpret_cast<const uint8_t*>(line.data()), line.size()}, fds);
  }

  Fd end_signals_;
  Fd process_;
  Fd listener_;
  Fd session_;
  /** Closed first: when the connection ends, so has the tracking. */
  Fd userfaultfd_;
  std::string note_;
  std::string line_;
  bool is_in_use_ = true;
  bool has_ended_ = false;
};

}  // namespace

void RunHolder(const HolderOptions& options, Fd userfaultfd, Fd session) {
  // Fails for a process that already leads a session, which is as good.
  ::setsid();
  // It keeps nobody from unmounting what the save was started in.
  Check(::chdir("/"), "chdir");
  ::signal(SIGPIPE, SIG_IGN);
  Holder holder(options, std::move(userfaultfd), std::move(session));
  holder.Run();
  ::unlink(options.socket_path.c_str());
}

}  // namespace vmckpt
