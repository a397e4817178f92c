#include "core/unix_socket.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>

#include "core/system_error.h"

namespace vmckpt {

namespace {

constexpr size_t kMaxControlBytes = CMSG_SPACE(kMaxFdsPerMessage * sizeof(int));

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // The last byte stays 0: an unterminated name is legal on Linux, but other programs cannot connect to it.
  if (path.size() >= sizeof(address.sun_path)) throw SystemError(ENAMETOOLONG, "connect");
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Fd NewSocket() { return Fd(Check(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket")); }

void WaitReadable(int socket, int cancel_fd, std::chrono::steady_clock::time_point deadline) {
  using std::chrono::milliseconds;
  for (;;) {
    auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd entries[] = {{.fd = socket, .events = POLLIN, .revents = 0},
                        {.fd = cancel_fd, .events = POLLIN, .revents = 0}};
    int ready = ::poll(entries, 2, left > 0 ? static_cast<int>(left) : 0);
    if (ready > 0 && entries[1].revents != 0) throw SystemError(ECANCELED, "poll");
    if (ready > 0) return;
    if (ready == 0) throw SystemError(ETIMEDOUT, "poll");
    if (errno != EINTR) throw SystemError(errno, "poll");
  }
}

std::vector<Fd> TakeFds(msghdr& header) {
  std::vector<Fd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

ucred PeerCredentials(int socket) {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  Check(::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length), "getsockopt");
  return credentials;
}

Fd ConnectUnix(const std::string& path) {
  sockaddr_un address = AddressOf(path);
  Fd socket = NewSocket();
  // An interrupted connect on a unix socket has not connected, so it can simply be repeated.
  Check(RetryOnSignal(
            [&] { return ::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)); }),
        "connect");
  return socket;
}

Fd ListenUnix(const std::string& path) {
  sockaddr_un address = AddressOf(path);
  Fd socket = NewSocket();
  const mode_t before = ::umask(0177);
  const int bound = ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
  ::umask(before);
  Check(bound, "bind");
  Check(::listen(socket.get(), SOMAXCONN), "listen");
  return socket;
}

std::pair<Fd, Fd> MakeSocketPair() {
  int ends[2];
  Check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
  return {Fd(ends[0]), Fd(ends[1])};
}

void SendFds(int socket, std::span<const uint8_t> payload, std::span<const int> fds) {
  alignas(cmsghdr) char control[kMaxControlBytes] = {};
  iovec vector{.iov_base = const_cast<uint8_t*>(payload.data()), .iov_len = payload.size()};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (fds.size() > kMaxFdsPerMessage) throw SystemError(EINVAL, "sendmsg");
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size_bytes());
  }
  ssize_t sent = Check(RetryOnSignal([&] { return ::sendmsg(socket, &header, MSG_NOSIGNAL); }), "sendmsg");
  if (static_cast<size_t>(sent) != payload.size()) throw SystemError(EMSGSIZE, "sendmsg");
}

Message ReceiveFds(int socket, const ReceiveLimits& limits) {
  if (limits.max_fds > kMaxFdsPerMessage) throw SystemError(EINVAL, "recvmsg");
  auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(limits.timeout_ms);
  alignas(cmsghdr) char control[kMaxControlBytes];
  Message message;
  message.payload.resize(limits.max_bytes);
  for (;;) {
    WaitReadable(socket, limits.cancel_fd, deadline);
    iovec vector{.iov_base = message.payload.data(), .iov_len = message.payload.size()};
    msghdr header{};
    header.msg_iov = &vector;
    header.msg_iovlen = 1;
    // CMSG_LEN instead of CMSG_SPACE: with its padding, one more descriptor would fit when max_fds is odd.
    header.msg_control = limits.max_fds > 0 ? control : nullptr;
    header.msg_controllen = limits.max_fds > 0 ? CMSG_LEN(limits.max_fds * sizeof(int)) : 0;
    ssize_t received = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (received == -1 && (errno == EAGAIN || errno == EINTR)) continue;
    Check(received, "recvmsg");
    message.fds = TakeFds(header);
    message.payload.resize(received);
    return message;
  }
}

}  // namespace vmckpt
