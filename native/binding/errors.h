// Failures of native/core as JavaScript errors shaped like Node's own system errors.
#pragma once

#include <napi.h>

#include "core/system_error.h"

namespace vmckpt::binding {

/** An Error with `code` ("EAGAIN"), `errno` (negative, as in Node) and `syscall`. */
Napi::Error ToJavaScript(Napi::Env env, const SystemError& error);

/** Wraps a method so that no C++ exception but Napi::Error leaves it. */
template <Napi::Value (*Method)(const Napi::CallbackInfo&)>
Napi::Value Guarded(const Napi::CallbackInfo& info) {
  try {
    return Method(info);
  } catch (const SystemError& error) {
    throw ToJavaScript(info.Env(), error);
  } catch (const std::bad_alloc&) {
    throw ToJavaScript(info.Env(), SystemError(ENOMEM, "malloc"));
  }
}

}  // namespace vmckpt::binding
