#include "binding/errors.h"

#include <string>

namespace vmckpt::binding {

Napi::Error ToJavaScript(Napi::Env env, const SystemError& error) {
  const char* name = ::strerrorname_np(error.error());
  const std::string code = name != nullptr ? name : "UNKNOWN";
  Napi::Error result = Napi::Error::New(env, code + ": " + error.what() + ", " + error.syscall());
  result.Set("code", Napi::String::New(env, code));
  result.Set("errno", Napi::Number::New(env, -error.error()));
  result.Set("syscall", Napi::String::New(env, error.syscall()));
  return result;
}

Napi::Error ToJavaScript(Napi::Env env, const DamagedImage& damage) {
  bool is_extent = damage.part() == DamagedImage::Part::kExtent;
  Napi::Error result = Napi::Error::New(env, damage.what());
  result.Set("code", Napi::String::New(env, is_extent ? "EXTENT_DAMAGED" : "INDEX_DAMAGED"));
  return result;
}

Napi::Error ToJavaScript(Napi::Env env, const SourceUnavailable& error) {
  Napi::Error result = Napi::Error::New(env, error.what());
  result.Set("code", Napi::String::New(env, "SOURCE_UNAVAILABLE"));
  return result;
}

}  // namespace vmckpt::binding
