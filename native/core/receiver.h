// The receiver of a save's migration stream: it keeps the pipe open to which QEMU writes, and reads it to its
// end if no other process does.
//
// Why it exists: on QEMU 7.2, a VM hangs forever if its receiver dies during a background snapshot. So this
// process, which does next to nothing, outlives the vmckpt that saves (the *consumer*). Both have the pipe's
// read end. As long as the consumer lives, only the consumer reads.
#pragma once

namespace vmckpt {

struct ReceiverFds {
  /** Readable, at its end, when the consumer is done or dead. */
  int consumer;
  /** Read end of the pipe that QEMU writes to; non-blocking. */
  int stream;
};

/** Serves one save. Returns when the consumer is gone and the stream is over; throws SystemError. */
void RunReceiver(const ReceiverFds& fds);

}  // namespace vmckpt
