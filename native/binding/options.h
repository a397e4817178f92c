// Named arguments: an object that src/native makes for one call. A name that only one side knows is a
// TypeError, so that neither a typo nor an older addon silently means the default.
#pragma once

#include <napi.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace vmckpt::binding {

class Options {
 public:
  explicit Options(Napi::Value object) : object_(object.As<Napi::Object>()) {
    if (!object.IsObject()) throw Napi::TypeError::New(object.Env(), "expected named arguments");
  }

  /** May be undefined, but must be present. */
  Napi::Value operator[](const char* name) {
    if (!object_.HasOwnProperty(name)) Refuse(std::string("the argument ") + name + " is missing");
    taken_.push_back(name);
    return object_.Get(name);
  }

  uint64_t Uint64(const char* name) {
    return static_cast<uint64_t>((*this)[name].As<Napi::Number>().Int64Value());
  }
  uint32_t Uint32(const char* name) { return (*this)[name].As<Napi::Number>().Uint32Value(); }
  int32_t Int32(const char* name) { return (*this)[name].As<Napi::Number>().Int32Value(); }
  bool Bool(const char* name) { return (*this)[name].As<Napi::Boolean>().Value(); }
  uint64_t BigUint64(const char* name) {
    bool is_lossless;
    return (*this)[name].As<Napi::BigInt>().Uint64Value(&is_lossless);
  }
  std::string String(const char* name) { return (*this)[name].As<Napi::String>().Utf8Value(); }

  /** Called when all names are read, before anything is done. Throws if a name was not read. */
  void Finish() const {
    Napi::Array names = object_.GetPropertyNames();
    for (uint32_t i = 0; i < names.Length(); i++) {
      const std::string name = names.Get(i).As<Napi::String>().Utf8Value();
      if (std::find(taken_.begin(), taken_.end(), name) == taken_.end())
        Refuse("the argument " + name + " is unknown");
    }
  }

 private:
  [[noreturn]] void Refuse(const std::string& text) const { throw Napi::TypeError::New(object_.Env(), text); }

  Napi::Object object_;
  std::vector<std::string> taken_;
};

}  // namespace vmckpt::binding
