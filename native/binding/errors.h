// Failures of native/core as JavaScript errors shaped like Node's own system errors.
#pragma once

#include <napi.h>

#include <new>
#include <system_error>

#include "core/image_errors.h"
#include "core/system_error.h"

namespace vmckpt::binding {

/** An Error with `code` ("EAGAIN"), `errno` (negative, as in Node) and `syscall`. */
Napi::Error ToJavaScript(Napi::Env env, const SystemError& error);

/** An Error with `code` EXTENT_DAMAGED or INDEX_DAMAGED. */
Napi::Error ToJavaScript(Napi::Env env, const DamagedImage& damage);

/** An Error with `code` SOURCE_UNAVAILABLE. */
Napi::Error ToJavaScript(Napi::Env env, const SourceUnavailable& error);

/** Calls `body` and lets no C++ exception except Napi::Error leave it. */
template <typename Body>
auto Translated(Napi::Env env, Body body) {
  try {
    return body();
  } catch (const SystemError& error) {
    throw ToJavaScript(env, error);
  } catch (const DamagedImage& damage) {
    throw ToJavaScript(env, damage);
  } catch (const SourceUnavailable& error) {
    throw ToJavaScript(env, error);
  } catch (const std::bad_alloc&) {
    throw ToJavaScript(env, SystemError(ENOMEM, "malloc"));
  } catch (const std::system_error& error) {
    throw ToJavaScript(env, SystemError(error.code().value(), "pthread_create"));
  }
}

/** The same for a method; constructors cannot be wrapped. */
template <Napi::Value (*Method)(const Napi::CallbackInfo&)>
Napi::Value Guarded(const Napi::CallbackInfo& info) {
  return Translated(info.Env(), [&] { return Method(info); });
}

}  // namespace vmckpt::binding
