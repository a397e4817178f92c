#include "core/receiver.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>

#include "core/fd.h"
#include "core/system_error.h"
#include "core/unix_socket.h"

namespace vmckpt {

namespace {

using Clock = std::chrono::steady_clock;

/** How long QEMU may take to connect while no consumer is there. */
constexpr std::chrono::seconds kQemuWait{60};
/** How long a QEMU that has connected may be kept waiting for a consumer: its guest stalls meanwhile. */
constexpr std::chrono::seconds kConsumerWait{2};

constexpr uint8_t kStream = 'S';
constexpr uint8_t kDone = 'D';

/** A listening socket that takes one connection; its file goes away with it. */
class Entrance {
 public:
  explicit Entrance(const std::string& path) : path_(path), listener_(ListenUnix(path)) {}
  ~Entrance() { Close(); }
  Entrance(const Entrance&) = delete;
  Entrance& operator=(const Entrance&) = delete;

  /** -1 once closed, which poll(2) ignores. */
  int fd() const { return listener_.get(); }

  Fd AcceptOnly() {
    Fd connection(RetryOnSignal([&] { return ::accept4(fd(), nullptr, nullptr, SOCK_CLOEXEC); }));
    if (connection) Close();
    return connection;
  }

  void Close() {
    if (!listener_) return;
    ::unlink(path_.c_str());
    listener_.Reset();
  }

 private:
  std::string path_;
  Fd listener_;
};

class Receiver {
 public:
  explicit Receiver(const ReceiverPaths& paths)
      : data_entrance_(paths.data), handoff_entrance_(paths.handoff) {}

  void Serve() {
    AwaitQemu();
    if (!data_) return;
    AwaitConsumer();
    if (!consumer_done_ && (!HandOver() || !AwaitDone())) Drain();
  }

 private:
  /** Until QEMU is there, the consumer has said 'D', or no consumer is there and time is up. */
  void AwaitQemu() {
    Clock::time_point deadline = Clock::now() + kQemuWait;
    while (!data_ && !consumer_done_) {
      bool had_consumer = static_cast<bool>(consumer_);
      if (!Wait(had_consumer ? Clock::time_point::max() : deadline)) return;
      if (had_consumer && !consumer_) deadline = Clock::now() + kQemuWait;
    }
  }

  void AwaitConsumer() {
    Clock::time_point deadline = Clock::now() + kConsumerWait;
    // A closed entrance means that a consumer was there: no other will come.
    while (handoff_entrance_.fd() >= 0 && Wait(deadline)) continue;
    handoff_entrance_.Close();
  }

  bool HandOver() {
    if (!consumer_) return false;
    try {
      const int fds[] = {data_.get()};
      SendFds(consumer_.get(), {&kStream, 1}, fds);
      return true;
    } catch (const SystemError&) {
      return false;
    }
  }

  bool AwaitDone() {
    while (consumer_ && !consumer_done_) Wait(Clock::time_point::max());
    return consumer_done_;
  }

  /** Reads to the end. Without a deadline: it ends with QEMU at the latest, and QEMU needs it until then. */
  void Drain() {
    static std::array<uint8_t, 1 << 20> discarded;
    while (RetryOnSignal([&] { return ::read(data_.get(), discarded.data(), discarded.size()); }) > 0)
      continue;
  }

  /** Waits for the next event and takes note of it; false when `deadline` has passed without one. */
  bool Wait(Clock::time_point deadline) {
    std::array<pollfd, 3> entries{{{.fd = data_entrance_.fd(), .events = POLLIN, .revents = 0},
                                   {.fd = handoff_entrance_.fd(), .events = POLLIN, .revents = 0},
                                   {.fd = consumer_.get(), .events = POLLIN, .revents = 0}}};
    int ready = RetryOnSignal([&] { return ::poll(entries.data(), entries.size(), TimeoutMs(deadline)); });
    if (Check(ready, "poll") == 0) return false;
    if (entries[0].revents != 0) data_ = data_entrance_.AcceptOnly();
    if (entries[1].revents != 0) consumer_ = handoff_entrance_.AcceptOnly();
    if (entries[2].revents != 0) HearConsumer();
    return true;
  }

  static int TimeoutMs(Clock::time_point deadline) {
    if (deadline == Clock::time_point::max()) return -1;
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    return static_cast<int>(std::max<int64_t>(left, 0));
  }

  void HearConsumer() {
    uint8_t word = 0;
    ssize_t length = RetryOnSignal([&] { return ::read(consumer_.get(), &word, 1); });
    if (length == 1 && word == kDone) consumer_done_ = true;
    if (length <= 0) consumer_.Reset();
  }

  Entrance data_entrance_;
  Entrance handoff_entrance_;
  Fd data_;
  Fd consumer_;
  bool consumer_done_ = false;
};

void OutliveEverything() {
  // Fails for a process that already leads a session, which is as good.
  ::setsid();
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  // Only the superuser may lower it; without that the kernel may choose this process, but it is tiny.
  Fd score(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (score) (void)!::write(score.get(), "-1000", 5);
}

void ReportReadyAndLetGo() {
  constexpr std::string_view ready = "ready\n";
  Check(RetryOnSignal([&] { return ::write(STDOUT_FILENO, ready.data(), ready.size()); }), "write");
  Fd null(Check(::open("/dev/null", O_RDWR | O_CLOEXEC), "open"));
  // Standard output last: its end tells the parent that all three are gone.
  for (int stream : {STDIN_FILENO, STDERR_FILENO, STDOUT_FILENO}) Check(::dup2(null.get(), stream), "dup2");
}

}  // namespace

void RunReceiver(const ReceiverPaths& paths) {
  OutliveEverything();
  ::umask(0177);
  Receiver receiver(paths);
  ReportReadyAndLetGo();
  receiver.Serve();
}

}  // namespace vmckpt
