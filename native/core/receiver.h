// The receiver of a save's migration stream: it owns QEMU's connection for as long as QEMU writes to it.
//
// Why it exists: on QEMU 7.2 a receiver that dies during a background snapshot hangs the VM for ever. So the
// connection belongs to this process, which does next to nothing and outlives the vmckpt that saves (the
// *consumer*). The consumer gets a duplicate of the connection and reads the stream itself; no byte passes
// through here unless the consumer fails. Then the receiver reads the stream to its end and discards it.
//
// Handoff protocol (one connection): receiver → consumer 'S' with the descriptor of QEMU's connection, once
// both are there; consumer → receiver 'D' = "I have read the stream to its end". A handoff connection that
// ends without 'D' means that the consumer failed.
#pragma once

#include <string>

namespace vmckpt {

struct ReceiverPaths {
  /** Where QEMU connects (`migrate unix:…`). */
  std::string data;
  /** Where the consumer connects. */
  std::string handoff;
};

/**
 * Listens on both paths (mode 0600), reports "ready\n" on standard output, lets go of the standard streams
 * and serves one save. Returns when the stream is over or nobody needs it; throws SystemError when it cannot
 * begin.
 */
void RunReceiver(const ReceiverPaths& paths);

}  // namespace vmckpt
