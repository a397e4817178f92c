#include "binding/write_tracking.h"

#include <fcntl.h>

#include <optional>
#include <string>
#include <vector>

#include "binding/errors.h"
#include "binding/fault_path.h"
#include "binding/options.h"
#include "core/page_reader.h"
#include "core/soft_dirty.h"
#include "core/write_protection.h"

namespace vmckpt::binding {

namespace {

// → Uint32Array of (firstPage, pageCount)…
Napi::Value RunsOf(Napi::Env env, const PageRuns& runs) {
  Napi::Uint32Array numbers = Napi::Uint32Array::New(env, 2 * runs.size());
  for (size_t i = 0; i < runs.size(); i++) {
    numbers[2 * i] = static_cast<uint32_t>(runs[i].first);
    numbers[2 * i + 1] = static_cast<uint32_t>(runs[i].count);
  }
  return numbers;
}

// Of (firstPage, pageCount), checked in src/native/write-tracking.ts.
PageRange RangeOf(const Napi::CallbackInfo& info) {
  return {.first = info[0].As<Napi::Number>().Uint32Value(),
          .count = info[1].As<Napi::Number>().Uint32Value()};
}

class Protection : public Napi::ObjectWrap<Protection> {
 public:
  // Of {userfaultfd, pid, regions}. A duplicate of the descriptor is kept.
  explicit Protection(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Protection>(info) {
    Options options(info[0]);
    const int userfaultfd = options.Int32("userfaultfd");
    const int pid = options.Int32("pid");
    std::vector<MemoryRegion> regions = RegionsOf(options["regions"]);
    options.Finish();
    Translated(info.Env(), [&] {
      Fd kept(Check(::fcntl(userfaultfd, F_DUPFD_CLOEXEC, 0), "fcntl"));
      protection_.emplace(std::move(kept), pid, std::move(regions));
    });
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "WriteProtection",
                       {InstanceMethod<&Protection::Call<&WriteProtection::Register>>("register"),
                        InstanceMethod<&Protection::Call<&WriteProtection::Arm>>("arm"),
                        InstanceMethod<&Protection::Look>("look"), InstanceMethod<&Protection::Take>("take"),
                        InstanceMethod<&Protection::LookForWrites>("lookForWrites"),
                        InstanceMethod<&Protection::Close>("close")});
  }

 private:
  template <void (WriteProtection::*Method)()>
  Napi::Value Call(const Napi::CallbackInfo& info) {
    Translated(info.Env(), [&] { (*protection_.*Method)(); });
    return info.Env().Undefined();
  }
  Napi::Value Look(const Napi::CallbackInfo& info) {
    return RunsOf(info.Env(), Translated(info.Env(), [&] { return protection_->Look(RangeOf(info)); }));
  }
  Napi::Value LookForWrites(const Napi::CallbackInfo& info) {
    return RunsOf(info.Env(), Translated(info.Env(), [&] { return protection_->LookForWrites(); }));
  }
  Napi::Value Take(const Napi::CallbackInfo& info) {
    return RunsOf(info.Env(), Translated(info.Env(), [&] { return protection_->Take(); }));
  }
  // Closes this duplicate.
  Napi::Value Close(const Napi::CallbackInfo& info) {
    protection_.reset();
    return info.Env().Undefined();
  }

  std::optional<WriteProtection> protection_;
};

class Bits : public Napi::ObjectWrap<Bits> {
 public:
  // Of {pid, regions}.
  explicit Bits(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Bits>(info) {
    Options options(info[0]);
    const int pid = options.Int32("pid");
    std::vector<MemoryRegion> regions = RegionsOf(options["regions"]);
    options.Finish();
    Translated(info.Env(), [&] { bits_.emplace(pid, std::move(regions)); });
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "SoftDirty",
                       {InstanceMethod<&Bits::Arm>("arm"), InstanceMethod<&Bits::Look>("look"),
                        InstanceMethod<&Bits::Take>("take"), InstanceMethod<&Bits::Close>("close")});
  }

 private:
  Napi::Value Arm(const Napi::CallbackInfo& info) {
    Translated(info.Env(), [&] { bits_->Arm(); });
    return info.Env().Undefined();
  }
  Napi::Value Look(const Napi::CallbackInfo& info) {
    return RunsOf(info.Env(), Translated(info.Env(), [&] { return bits_->Look(RangeOf(info)); }));
  }
  Napi::Value Take(const Napi::CallbackInfo& info) {
    return RunsOf(info.Env(), Translated(info.Env(), [&] { return bits_->Take(); }));
  }
  Napi::Value Close(const Napi::CallbackInfo& info) {
    bits_.reset();
    return info.Env().Undefined();
  }

  std::optional<SoftDirty> bits_;
};

// Two numbers for each run.
std::vector<PlacedPages> PlacedPagesOf(Napi::Value value) {
  auto numbers = value.As<Napi::BigUint64Array>();
  std::vector<PlacedPages> runs;
  for (size_t i = 0; i + 1 < numbers.ElementLength(); i += 2)
    runs.push_back({.address = numbers[i], .count = numbers[i + 1]});
  return runs;
}

// Of {pid, runs, into, kinds, fills, hashes, expected}; src/native/page-reading.ts has checked the lengths.
Napi::Value ReadPages(const Napi::CallbackInfo& info) {
  Options options(info[0]);
  const int pid = options.Int32("pid");
  const std::vector<PlacedPages> runs = PlacedPagesOf(options["runs"]);
  const auto numbers = [&](const char* name) -> uint64_t* {
    Napi::Value value = options[name];
    return value.IsUndefined() ? nullptr : value.As<Napi::BigUint64Array>().Data();
  };
  const PageReading reading{.runs = runs,
                            .into = options["into"].As<Napi::Uint8Array>().Data(),
                            .kinds = options["kinds"].As<Napi::Uint8Array>().Data(),
                            .fills = options["fills"].As<Napi::Uint8Array>().Data(),
                            .checksums = numbers("hashes"),
                            .expected = numbers("expected")};
  options.Finish();
  return Napi::Number::New(info.Env(), static_cast<double>(vmckpt::ReadPages(pid, reading)));
}

// Empty when there is none.
template <std::string (*Problem)()>
Napi::Value ProblemText(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), Problem());
}

template <Napi::Value (*Method)(const Napi::CallbackInfo&)>
void Export(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<Guarded<Method>>(exports.Env(), name));
}

}  // namespace

void ExportWriteTracking(Napi::Object exports) {
  exports.Set("WriteProtection", Protection::Define(exports.Env()));
  exports.Set("SoftDirty", Bits::Define(exports.Env()));
  Export<ReadPages>(exports, "readPages");
  Export<ProblemText<WriteProtectionProblem>>(exports, "writeProtectionProblem");
  Export<ProblemText<SoftDirtyProblem>>(exports, "softDirtyProblem");
}

}  // namespace vmckpt::binding
