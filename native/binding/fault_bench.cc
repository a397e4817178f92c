#include "binding/fault_bench.h"

#include "binding/background.h"
#include "binding/checkpoint_image.h"
#include "binding/options.h"
#include "core/fault_bench.h"

namespace vmckpt::binding {

namespace {

Napi::Value ObjectOf(Napi::Env env, const FaultBenchResult& result) {
  Napi::Object figures = Napi::Object::New(env);
  auto set = [&](const char* name, uint64_t value) { figures.Set(name, static_cast<double>(value)); };
  set("idleCount", result.idle_count);
  set("idleP50Ns", result.idle_p50_ns);
  set("idleP99Ns", result.idle_p99_ns);
  set("bareFaultP50Ns", result.bare_fault_p50_ns);
  set("loadedCount", result.loaded_count);
  set("loadedP99Ns", result.loaded_p99_ns);
  set("bulkBytes", result.bulk_bytes);
  set("bulkNs", result.bulk_ns);
  set("bareNs", result.bare_ns);
  return figures;
}

// → promise of the figures
Napi::Value Measure(const Napi::CallbackInfo& info) {
  Options options(info[0]);
  auto work = [image = ImageOf(options["image"]), page_count = options.Uint64("pageCount"),
               seed = options.Uint64("seed")] { return MeasureFaults(image, page_count, seed); };
  options.Finish();
  return InBackground(info.Env(), work, ObjectOf);
}

}  // namespace

void ExportFaultBench(Napi::Object exports) {
  exports.Set("measureFaults", Napi::Function::New(exports.Env(), Measure));
}

}  // namespace vmckpt::binding
