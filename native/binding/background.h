// Work that must not block the JavaScript thread.
#pragma once

#include <napi.h>

#include <exception>
#include <optional>
#include <utility>

#include "binding/errors.h"

namespace vmckpt::binding {

template <typename Work, typename Convert>
class BackgroundTask : public Napi::AsyncWorker {
 public:
  BackgroundTask(Napi::Env env, Work work, Convert convert)
      : Napi::AsyncWorker(env),
        work_(std::move(work)),
        convert_(std::move(convert)),
        deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      result_ = work_();
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  void OnOK() override {
    try {
      deferred_.Resolve(Translated(Env(), [&] {
        if (failure_) std::rethrow_exception(failure_);
        return convert_(Env(), std::move(*result_));
      }));
    } catch (const Napi::Error& error) {
      deferred_.Reject(error.Value());
    }
  }

 private:
  Work work_;
  Convert convert_;
  Napi::Promise::Deferred deferred_;
  std::optional<std::invoke_result_t<Work&>> result_;
  std::exception_ptr failure_;
};

/**
 * Runs `work` on one of Node's few threads for such work. → promise of what `convert` makes of its result.
 * Both live until then, with everything that they hold, and are destroyed on the JavaScript thread.
 */
template <typename Work, typename Convert>
Napi::Promise InBackground(Napi::Env env, Work work, Convert convert) {
  auto* task = new BackgroundTask<Work, Convert>(env, std::move(work), std::move(convert));
  task->Queue();
  return task->Promise();
}

}  // namespace vmckpt::binding
