#include "binding/fault_bench.h"

#include <exception>
#include <memory>

#include "binding/errors.h"
#include "binding/fault_path.h"
#include "core/fault_bench.h"

namespace vmckpt::binding {

namespace {

class Worker : public Napi::AsyncWorker {
 public:
  Worker(Napi::Env env, std::shared_ptr<CheckpointImage> image, uint64_t page_count, uint64_t seed)
      : Napi::AsyncWorker(env),
        image_(std::move(image)),
        page_count_(page_count),
        seed_(seed),
        deferred_(Napi::Promise::Deferred::New(env)) {}

  Napi::Promise Promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    try {
      result_ = MeasureFaults(image_, page_count_, seed_);
    } catch (...) {
      failure_ = std::current_exception();
    }
  }

  void OnOK() override {
    try {
      Translated(Env(), [&] {
        if (failure_) std::rethrow_exception(failure_);
      });
    } catch (const Napi::Error& error) {
      return deferred_.Reject(error.Value());
    }
    Napi::Object figures = Napi::Object::New(Env());
    auto set = [&](const char* name, uint64_t value) { figures.Set(name, static_cast<double>(value)); };
    set("idleCount", result_.idle_count);
    set("idleP50Ns", result_.idle_p50_ns);
    set("idleP99Ns", result_.idle_p99_ns);
    set("loadedCount", result_.loaded_count);
    set("loadedP99Ns", result_.loaded_p99_ns);
    set("bulkBytes", result_.bulk_bytes);
    set("bulkNs", result_.bulk_ns);
    set("bareNs", result_.bare_ns);
    deferred_.Resolve(figures);
  }

 private:
  std::shared_ptr<CheckpointImage> image_;
  const uint64_t page_count_;
  const uint64_t seed_;
  Napi::Promise::Deferred deferred_;
  FaultBenchResult result_{};
  std::exception_ptr failure_;
};

// image, pageCount, seed → promise of the figures
Napi::Value Measure(const Napi::CallbackInfo& info) {
  auto number = [&](int at) { return static_cast<uint64_t>(info[at].As<Napi::Number>().Int64Value()); };
  auto* worker = new Worker(info.Env(), ImageOf(info[0]), number(1), number(2));
  worker->Queue();
  return worker->Promise();
}

}  // namespace

void ExportFaultBench(Napi::Object exports) {
  exports.Set("measureFaults", Napi::Function::New(exports.Env(), Measure));
}

}  // namespace vmckpt::binding
