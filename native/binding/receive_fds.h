// receiveFds({socketFd, maxBytes, maxFds, timeoutMs}): the one call that waits, so it runs on a worker
// thread. A process that exits joins its worker threads, so the wait must be cancelled then, or the exit
// takes as long as the wait.
#pragma once

#include <napi.h>

namespace vmckpt::binding {

/**
 * Returns {message, cancel}: a promise of {payload: Buffer, fds: number[]}, and a function that rejects it
 * early.
 */
Napi::Value ReceiveFds(const Napi::CallbackInfo& info);

}  // namespace vmckpt::binding
