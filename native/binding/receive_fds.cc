#include "binding/receive_fds.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <memory>
#include <optional>

#include "binding/errors.h"
#include "core/unix_socket.h"

namespace vmckpt::binding {

namespace {

class ReceiveWorker : public Napi::AsyncWorker {
 public:
  ReceiveWorker(Napi::Env env, Fd socket, std::shared_ptr<Fd> cancel, const ReceiveLimits& limits)
      : Napi::AsyncWorker(env),
        deferred_(Napi::Promise::Deferred::New(env)),
        socket_(std::move(socket)),
        cancel_(std::move(cancel)),
        limits_(limits) {}

  /** On the JavaScript thread, like the calls of `cancel`, to which there is nothing left to do. */
  ~ReceiveWorker() override { cancel_->Reset(); }

  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      message_ = vmckpt::ReceiveFds(socket_.get(), limits_);
    } catch (const SystemError& error) {
      failure_ = error;
    }
  }

  void OnOK() override {
    if (failure_) return deferred_.Reject(ToJavaScript(Env(), *failure_).Value());
    Napi::Array fds = Napi::Array::New(Env(), message_.fds.size());
    for (uint32_t i = 0; i < message_.fds.size(); i++) fds.Set(i, message_.fds[i].Release());
    Napi::Object result = Napi::Object::New(Env());
    result.Set("payload",
               Napi::Buffer<uint8_t>::Copy(Env(), message_.payload.data(), message_.payload.size()));
    result.Set("fds", fds);
    deferred_.Resolve(result);
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  Fd socket_;
  std::shared_ptr<Fd> cancel_;
  ReceiveLimits limits_;
  Message message_;
  std::optional<SystemError> failure_;
};

}  // namespace

Napi::Value ReceiveFds(const Napi::CallbackInfo& info) {
  // A duplicate: the caller may close its own meanwhile, and the number may come to mean another file.
  Fd socket(Check(::fcntl(info[0].As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 0), "fcntl"));
  auto cancel = std::make_shared<Fd>(Check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"));
  auto* worker = new ReceiveWorker(info.Env(), std::move(socket), cancel,
                                   {.max_bytes = info[1].As<Napi::Number>().Uint32Value(),
                                    .max_fds = info[2].As<Napi::Number>().Uint32Value(),
                                    .timeout_ms = info[3].As<Napi::Number>().Int32Value(),
                                    .cancel_fd = cancel->get()});
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("message", worker->Promise());
  result.Set("cancel", Napi::Function::New(info.Env(), [cancel](const Napi::CallbackInfo&) {
               if (*cancel) ::eventfd_write(cancel->get(), 1);
             }));
  worker->Queue();
  return result;
}

}  // namespace vmckpt::binding
