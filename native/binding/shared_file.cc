#include "binding/shared_file.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <utility>

#include "binding/background.h"
#include "binding/descriptors.h"
#include "binding/errors.h"
#include "binding/options.h"
#include "core/shared_file.h"

namespace vmckpt::binding {

namespace {

// fd → Uint8Array over the mapping, which ends with it
Napi::Value MapShared(const Napi::CallbackInfo& info) {
  const Fd file = Duplicate(info[0]);
  auto mapped = std::make_unique<SharedFile>(file, SharedFile::Use::kWrite);
  auto unmap = [](Napi::Env, void*, SharedFile* owner) { delete owner; };
  auto buffer = Napi::ArrayBuffer::New(info.Env(), mapped->data(), mapped->size(), unmap, mapped.get());
  const size_t bytes = mapped.release()->size();
  return Napi::Uint8Array::New(info.Env(), bytes, buffer, 0);
}

std::atomic<uint32_t>& WordOf(Napi::Uint8Array bytes, uint32_t offset) {
  return *reinterpret_cast<std::atomic<uint32_t>*>(bytes.Data() + offset);
}

// bytes, offset of the word
Napi::Value RaiseSharedWord(const Napi::CallbackInfo& info) {
  RaiseWord(WordOf(info[0].As<Napi::Uint8Array>(), info[1].As<Napi::Number>().Uint32Value()));
  return info.Env().Undefined();
}

// → promise
Napi::Value AwaitSharedWord(const Napi::CallbackInfo& info) {
  Options options(info[0]);
  auto bytes = options["bytes"].As<Napi::Uint8Array>();
  auto& word = WordOf(bytes, options.Uint32("offset"));
  const uint32_t seen = options.Uint32("seen");
  const std::chrono::milliseconds longest(options.Uint32("timeoutMs"));
  options.Finish();
  // Keeps the mapping in the meantime.
  auto work = [kept = Napi::Persistent(bytes), &word, seen, longest] {
    AwaitWord(word, seen, longest);
    return true;
  };
  return InBackground(info.Env(), std::move(work), [](Napi::Env env, bool) { return env.Undefined(); });
}

}  // namespace

void ExportSharedFile(Napi::Object exports) {
  Napi::Env env = exports.Env();
  exports.Set("mapShared", Napi::Function::New<Guarded<MapShared>>(env));
  exports.Set("raiseWord", Napi::Function::New<Guarded<RaiseSharedWord>>(env));
  exports.Set("awaitWord", Napi::Function::New<Guarded<AwaitSharedWord>>(env));
}

}  // namespace vmckpt::binding
