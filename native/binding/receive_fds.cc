#include "binding/receive_fds.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <memory>

#include "binding/background.h"
#include "binding/options.h"
#include "core/unix_socket.h"

namespace vmckpt::binding {

namespace {

Napi::Value ObjectOf(Napi::Env env, Message message) {
  Napi::Array fds = Napi::Array::New(env, message.fds.size());
  for (uint32_t i = 0; i < message.fds.size(); i++) fds.Set(i, message.fds[i].Release());
  Napi::Object result = Napi::Object::New(env);
  result.Set("payload", Napi::Buffer<uint8_t>::Copy(env, message.payload.data(), message.payload.size()));
  result.Set("fds", fds);
  return result;
}

}  // namespace

Napi::Value ReceiveFds(const Napi::CallbackInfo& info) {
  Options options(info[0]);
  const int socket_fd = options.Int32("socketFd");
  ReceiveLimits limits{.max_bytes = options.Uint32("maxBytes"),
                       .max_fds = options.Uint32("maxFds"),
                       .timeout_ms = options.Int32("timeoutMs"),
                       .cancel_fd = -1};
  options.Finish();
  // A duplicate, because the caller may close its own in the meantime, and the number may be reused for
  // another file.
  Fd socket(Check(::fcntl(socket_fd, F_DUPFD_CLOEXEC, 0), "fcntl"));
  auto cancel = std::make_shared<Fd>(Check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"));
  limits.cancel_fd = cancel->get();
  // Runs on the JavaScript thread, like calls of `cancel`, which then have nothing left to do.
  std::shared_ptr<void> at_end(nullptr, [cancel](void*) { cancel->Reset(); });
  auto work = [socket = std::move(socket), at_end = std::move(at_end), limits] {
    return vmckpt::ReceiveFds(socket.get(), limits);
  };
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("message", InBackground(info.Env(), std::move(work), ObjectOf));
  result.Set("cancel", Napi::Function::New(info.Env(), [cancel](const Napi::CallbackInfo&) {
               if (*cancel) ::eventfd_write(cancel->get(), 1);
             }));
  return result;
}

}  // namespace vmckpt::binding
