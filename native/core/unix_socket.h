// Unix stream sockets with features that Node lacks: peer credentials, and descriptors that travel with the
// bytes (SCM_RIGHTS). Every descriptor made here is close-on-exec. See unix(7).
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/fd.h"

namespace vmckpt {

/** The kernel's limit on descriptors in one message (SCM_MAX_FD). */
constexpr size_t kMaxFdsPerMessage = 253;

struct Message {
  std::vector<uint8_t> payload;
  std::vector<Fd> fds;
};

/** The process at the other end when the connection was made. */
ucred PeerCredentials(int socket);

/** Connects, blocking, to a listening socket. Throws ENAMETOOLONG when `path` exceeds 107 bytes. */
Fd ConnectUnix(const std::string& path);

/** Listens at a path where nothing is yet, for this user only. */
Fd ListenUnix(const std::string& path);

/** The two ends of a connection. */
std::pair<Fd, Fd> MakeSocketPair();

/** Sends `payload` (at least 1 byte) with `fds` as one message; EMSGSIZE if it is not sent whole. */
void SendFds(int socket, std::span<const uint8_t> payload, std::span<const int> fds);

struct ReceiveLimits {
  size_t max_bytes;
  size_t max_fds;
  int timeout_ms;
  /** The wait ends with ECANCELED as soon as this descriptor is readable. */
  int cancel_fd;
};

/**
 * Waits for the next bytes and the descriptors that come with them; the kernel closes those beyond `max_fds`.
 * At the end of the stream the payload is empty. Throws ETIMEDOUT and ECANCELED.
 */
Message ReceiveFds(int socket, const ReceiveLimits& limits);

}  // namespace vmckpt
