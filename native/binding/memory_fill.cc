#include "binding/memory_fill.h"

#include <chrono>
#include <optional>
#include <vector>

#include "binding/background.h"
#include "binding/fault_path.h"
#include "core/memory_fill.h"

namespace vmckpt::binding {

namespace {

class Fill : public Napi::ObjectWrap<Fill> {
 public:
  // image, pid, regions, order, table or undefined, threads, budgetMs
  explicit Fill(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Fill>(info) {
    PageTable* table = nullptr;
    if (!info[4].IsUndefined()) {
      table_ = Napi::Persistent(info[4].As<Napi::Object>());
      table = &TableOf(info[4]);
    }
    std::optional<std::vector<PageRange>> order;
    if (!info[3].IsUndefined()) order = PageRangesOf(info[3]);
    fill_.emplace(
        ImageOf(info[0]),
        MemoryFill::Options{.pid = info[1].As<Napi::Number>().Int32Value(),
                            .regions = RegionsOf(info[2]),
                            .order = std::move(order),
                            .table = table,
                            .threads = info[5].As<Napi::Number>().Uint32Value(),
                            .budget = std::chrono::milliseconds(info[6].As<Napi::Number>().Uint32Value())});
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "MemoryFill",
                       {InstanceAccessor<&Fill::PageCount>("pageCount"), InstanceMethod<&Fill::Run>("run"),
                        InstanceMethod<&Fill::Stop>("stop")});
  }

 private:
  Napi::Value PageCount(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(fill_->page_count()));
  }
  // → promise of whether everything is written
  Napi::Value Run(const Napi::CallbackInfo& info) {
    // It must not be collected meanwhile.
    auto owner = Napi::Persistent(info.This().As<Napi::Object>());
    return InBackground(
        info.Env(), [owner = std::move(owner), &fill = *fill_] { return fill.Run(); },
        [](Napi::Env env, bool is_finished) { return Napi::Boolean::New(env, is_finished); });
  }
  Napi::Value Stop(const Napi::CallbackInfo& info) {
    fill_->Stop();
    return info.Env().Undefined();
  }

  Napi::ObjectReference table_;
  std::optional<MemoryFill> fill_;
};

}  // namespace

void ExportMemoryFill(Napi::Object exports) { exports.Set("MemoryFill", Fill::Define(exports.Env())); }

}  // namespace vmckpt::binding
