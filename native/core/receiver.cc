#include "core/receiver.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>

#include <array>
#include <cstdint>

#include "core/debug.h"
#include "core/fd.h"
#include "core/pipe.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

void OutliveEverything() {
  // Fails for a process that already leads a session, which is just as good.
  ::setsid();
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  // Only the superuser may lower it. Otherwise the kernel may choose this process, but it is tiny.
  Fd score(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (score) (void)!::write(score.get(), "-1000", 5);
}

void AwaitReadable(int fd) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  Check(RetryOnSignal([&] { return ::poll(&entry, 1, -1); }), "poll");
}

/** Reads to the end. No deadline: the stream ends with QEMU at the latest, and QEMU needs it until then. */
void Drain(int stream) {
  static std::array<uint8_t, 1 << 20> discarded;
  do AwaitReadable(stream);
  while (ReadAvailable(stream, discarded.data(), discarded.size()) != 0);
}

}  // namespace

void RunReceiver(const ReceiverFds& fds) {
  OutliveEverything();
  Debug("receiver", "waits for the end of the save");
  AwaitReadable(fds.consumer);
  Debug("receiver", "the save is over; reads the rest of the stream");
  Drain(fds.stream);
  Debug("receiver", "the stream has ended");
}

}  // namespace vmckpt
