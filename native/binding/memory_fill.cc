#include "binding/memory_fill.h"

#include <chrono>
#include <optional>
#include <utility>

#include "binding/background.h"
#include "binding/checkpoint_image.h"
#include "binding/fault_path.h"
#include "binding/options.h"
#include "core/memory_fill.h"

namespace vmckpt::binding {

namespace {

class Fill : public Napi::ObjectWrap<Fill> {
 public:
  explicit Fill(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Fill>(info) {
    Options options(info[0]);
    auto image = ImageOf(options["image"]);
    Napi::Value table = options["table"];
    Napi::Value order = options["order"];
    MemoryFill::Options how{.pid = options.Int32("pid"),
                            .regions = RegionsOf(options["regions"]),
                            .order = std::nullopt,
                            .table = nullptr,
                            .threads = options.Uint32("threads"),
                            .budget = std::chrono::milliseconds(options.Uint32("budgetMs"))};
    options.Finish();
    if (!order.IsUndefined()) how.order = PageRangesOf(order);
    if (!table.IsUndefined()) {
      table_ = Napi::Persistent(table.As<Napi::Object>());
      how.table = &TableOf(table);
    }
    fill_.emplace(std::move(image), std::move(how));
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "MemoryFill",
                       {InstanceAccessor<&Fill::PageCount>("pageCount"),
                        InstanceAccessor<&Fill::WaitsForSource>("waitsForSource"),
                        InstanceMethod<&Fill::Run>("run"), InstanceMethod<&Fill::Stop>("stop")});
  }

 private:
  Napi::Value PageCount(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), static_cast<double>(fill_->page_count()));
  }
  Napi::Value WaitsForSource(const Napi::CallbackInfo& info) {
    return Napi::Boolean::New(info.Env(), fill_->waits_for_source());
  }
  // → promise of whether everything is written
  Napi::Value Run(const Napi::CallbackInfo& info) {
    // Keeps this object from being collected in the meantime.
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
