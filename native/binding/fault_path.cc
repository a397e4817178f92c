#include "binding/fault_path.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding/checkpoint_image.h"
#include "binding/descriptors.h"
#include "binding/errors.h"
#include "binding/options.h"
#include "core/fault_server.h"
#include "core/return_path.h"

namespace vmckpt::binding {

namespace {

uint64_t Uint64Of(Napi::Value value) { return static_cast<uint64_t>(value.As<Napi::Number>().Int64Value()); }

/** A JavaScript function that threads may call. It does not keep the process alive. */
class Callback {
 public:
  Callback(Napi::Env env, Napi::Value function)
      : function_(Napi::ThreadSafeFunction::New(env, function.As<Napi::Function>(), "vmckpt", 0, 1)) {
    function_.Unref(env);
  }
  ~Callback() { function_.Release(); }
  Callback(const Callback&) = delete;

  /** `arguments` makes the call's arguments on the JavaScript thread. */
  template <typename Arguments>
  void Call(Arguments arguments) {
    auto call = [arguments = std::move(arguments)](Napi::Env env, Napi::Function function) {
      if (env != nullptr) function.Call(arguments(env));
    };
    function_.NonBlockingCall(std::move(call));
  }

 private:
  Napi::ThreadSafeFunction function_;
};

class Table : public Napi::ObjectWrap<Table> {
 public:
  // pageCount, fd of the table to adopt or undefined
  explicit Table(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Table>(info) {
    uint64_t page_count = Uint64Of(info[0]);
    Translated(info.Env(), [&] {
      table_.emplace(info[1].IsUndefined() ? PageTable::Create(page_count)
                                           : PageTable::Adopt(Duplicate(info[1]), page_count));
    });
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(
        env, "PageTable",
        {InstanceAccessor<&Table::Descriptor>("fd"),
         InstanceAccessor<&Table::StreamPhase, &Table::SetStreamPhase>("streamPhase"),
         InstanceMethod<&Table::Counters>("counters"),
         InstanceMethod<&Table::FaultPercentiles>("faultPercentiles"),
         InstanceMethod<&Table::Installed>("installed"), InstanceMethod<&Table::ForgetClaims>("forgetClaims"),
         InstanceMethod<&Table::MarkInstalled>("markInstalled"), InstanceMethod<&Table::Plan>("plan")});
  }
  PageTable& get() { return *table_; }

 private:
  Napi::Value Descriptor(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), table_->fd());
  }
  Napi::Value StreamPhase(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), table_->stream_phase());
  }
  void SetStreamPhase(const Napi::CallbackInfo&, const Napi::Value& value) {
    table_->stream_phase() = value.As<Napi::Number>().Uint32Value();
  }
  Napi::Value Counters(const Napi::CallbackInfo& info) {
    const TransferCounters& counters = table_->counters();
    const LatencyHistogram& times = table_->fault_times();
    Napi::Object result = Napi::Object::New(info.Env());
    auto set = [&](const char* name, double value) {
      result.Set(name, Napi::Number::New(info.Env(), value));
    };
    set("demandFaults", counters.demand_faults);
    set("withheldFaults", counters.withheld_faults);
    set("demandPages", counters.demand_pages);
    set("neighbourPages", counters.neighbour_pages);
    set("prefetchedPages", counters.prefetched_pages);
    set("backgroundPages", counters.background_pages);
    set("zeroPages", counters.zero_pages);
    set("removedPages", counters.removed_pages);
    set("starvedPages", table_->starvation().pages);
    set("starvedMs", table_->starvation().nanoseconds / 1e6);
    set("faultP50Us", times.Quantile(0.5) / 1e3);
    set("faultP90Us", times.Quantile(0.9) / 1e3);
    set("faultP99Us", times.Quantile(0.99) / 1e3);
    set("faultMaxUs", times.max() / 1e3);
    set("faultTotalMs", times.total() / 1e6);
    return result;
  }
  // → Float64Array of 101 times in microseconds, from the 0th to the 100th percentile
  Napi::Value FaultPercentiles(const Napi::CallbackInfo& info) {
    Napi::Float64Array result = Napi::Float64Array::New(info.Env(), 101);
    for (size_t percent = 0; percent <= 100; percent++)
      result[percent] = table_->fault_times().Quantile(percent / 100.0) / 1e3;
    return result;
  }
  // → Uint32Array of (firstPage, pageCount)…
  Napi::Value Installed(const Napi::CallbackInfo& info) {
    std::vector<uint32_t> runs;
    for (uint64_t page = 0; page < table_->page_count(); page++) {
      if (table_->StateOf(page) != PageState::kInstalled) continue;
      if (runs.empty() || runs[runs.size() - 2] + runs.back() != page)
        runs.insert(runs.end(), {static_cast<uint32_t>(page), 0});
      runs.back()++;
    }
    Napi::Uint32Array result = Napi::Uint32Array::New(info.Env(), runs.size());
    std::copy(runs.begin(), runs.end(), result.Data());
    return result;
  }
  Napi::Value ForgetClaims(const Napi::CallbackInfo& info) {
    table_->ForgetClaims();
    return info.Env().Undefined();
  }

  // Uint32Array of (firstPage, pageCount)…, whether they are to be withheld
  Napi::Value Plan(const Napi::CallbackInfo& info) {
    auto runs = info[0].As<Napi::Uint32Array>();
    PageState state = info[1].As<Napi::Boolean>() ? PageState::kWithheld : PageState::kQueued;
    for (size_t i = 0; i + 1 < runs.ElementLength(); i += 2) table_->Plan(runs[i], runs[i + 1], state);
    return info.Env().Undefined();
  }
  Napi::Value MarkInstalled(const Napi::CallbackInfo& info) {
    auto presence = info[1].As<Napi::Uint8Array>();
    table_->MarkInstalled(Uint64Of(info[0]), {presence.Data(), presence.ByteLength()});
    return info.Env().Undefined();
  }

  std::optional<PageTable> table_;
};

/** Keeps a wrapped object alive for as long as another one uses it. */
template <typename Wrapped>
class Kept {
 public:
  explicit Kept(Napi::Value value)
      : reference_(Napi::Persistent(value.As<Napi::Object>())),
        wrapped_(Wrapped::Unwrap(value.As<Napi::Object>())) {}
  Wrapped* operator->() const { return wrapped_; }

 private:
  Napi::ObjectReference reference_;
  Wrapped* wrapped_;
};

class Server : public Napi::ObjectWrap<Server> {
 public:
  explicit Server(const Napi::CallbackInfo& info) : Server(info, Options(info[0])) {}

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(
        env, "FaultServer",
        {InstanceMethod<&Server::WakeAll>("wakeAll"),
         InstanceMethod<&Server::StartBackground>("startBackground"), InstanceMethod<&Server::Trace>("trace"),
         InstanceMethod<&Server::HandBack>("handBack"), InstanceMethod<&Server::Stop>("stop")});
  }
  FaultServer* get() const { return server_.get(); }

 private:
  Server(const Napi::CallbackInfo& info, Options options)
      : Napi::ObjectWrap<Server>(info),
        table_(options["table"]),
        on_event_(std::make_unique<Callback>(info.Env(), options["onEvent"])) {
    auto image = ImageOf(options["image"]);
    Napi::Value userfaultfd = options["userfaultfd"];
    auto pages = options.Bool("pagesMayGo") ? Userfaultfd::Pages::kMayGo : Userfaultfd::Pages::kStay;
    FaultServer::Options how{.regions = RegionsOf(options["regions"]),
                             .demand_threads = options.Uint32("demandThreads"),
                             .background_threads = options.Uint32("backgroundThreads"),
                             .on_event = [this](const ServerEvent& event) { Emit(event); },
                             .exactly = options.Bool("exactly")};
    options.Finish();
    server_ = Translated(info.Env(), [&] {
      return std::make_unique<FaultServer>(std::move(image), table_->get(),
                                           Userfaultfd(Duplicate(userfaultfd), pages), std::move(how));
    });
  }
  void Emit(const ServerEvent& event) {
    static constexpr const char* kNames[] = {
        "complete", "extent-damaged", "index-damaged", "gone", "failed", "starving", "fed"};
    const char* kind = kNames[static_cast<size_t>(event.kind)];
    on_event_->Call([kind, text = event.text](Napi::Env env) {
      return std::vector<napi_value>{Napi::String::New(env, kind), Napi::String::New(env, text)};
    });
  }
  // BigUint64Array of (start, end)…
  Napi::Value WakeAll(const Napi::CallbackInfo& info) {
    auto numbers = info[0].As<Napi::BigUint64Array>();
    std::vector<AddressRange> ranges;
    for (size_t i = 0; i + 1 < numbers.ElementLength(); i += 2)
      ranges.push_back({.start = numbers[i], .end = numbers[i + 1]});
    Translated(info.Env(), [&] { server_->WakeAll(ranges); });
    return info.Env().Undefined();
  }
  Napi::Value StartBackground(const Napi::CallbackInfo& info) {
    Options options(info[0]);
    auto from_now = [&](const char* name) {
      return FaultServer::Clock::now() + std::chrono::milliseconds(options.Uint64(name));
    };
    FaultServer::BackgroundPlan plan{.predicted = PageRangesOf(options["predicted"]),
                                     .near = PageRangesOf(options["near"]),
                                     .likely = PageRangesOf(options["likely"]),
                                     .rest_from = from_now("restMs"),
                                     .withheld_until = from_now("withheldMs")};
    options.Finish();
    server_->StartBackground(std::move(plan));
    return info.Env().Undefined();
  }
  // → Uint32Array of (page, microseconds since the server's start)…
  Napi::Value Trace(const Napi::CallbackInfo& info) {
    std::vector<FaultTrace::Fault> faults = server_->trace().Faults();
    Napi::Uint32Array numbers = Napi::Uint32Array::New(info.Env(), 2 * faults.size());
    for (size_t i = 0; i < faults.size(); i++) {
      numbers[2 * i] = faults[i].page;
      numbers[2 * i + 1] = faults[i].at_us;
    }
    return numbers;
  }
  Napi::Value HandBack(const Napi::CallbackInfo& info) {
    Translated(info.Env(), [&] { server_->HandBack(); });
    return info.Env().Undefined();
  }
  Napi::Value Stop(const Napi::CallbackInfo& info) {
    server_.reset();
    return info.Env().Undefined();
  }

  Kept<Table> table_;
  // Declared before the server, whose threads call it until they end.
  std::unique_ptr<Callback> on_event_;
  std::unique_ptr<FaultServer> server_;
};

class Reader : public Napi::ObjectWrap<Reader> {
 public:
  explicit Reader(const Napi::CallbackInfo& info) : Reader(info, Options(info[0])) {}

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "ReturnPath",
                       {InstanceMethod<&Reader::Attach>("attach"), InstanceMethod<&Reader::Stop>("stop")});
  }

 private:
  Reader(const Napi::CallbackInfo& info, Options options)
      : Napi::ObjectWrap<Reader>(info),
        table_(options["table"]),
        on_read_(std::make_unique<Callback>(info.Env(), options["onRead"])) {
    Napi::Value socket = options["socketFd"];
    std::vector<ReturnPath::Block> blocks;
    auto array = options["blocks"].As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length(); i++) {
      Options block(array.Get(i));
      blocks.push_back({.name = block.String("name"),
                        .first_page = block.Uint64("firstPage"),
                        .page_count = block.Uint64("pageCount"),
                        .is_direct = block.Bool("isDirect")});
      block.Finish();
    }
    options.Finish();
    path_ = Translated(info.Env(), [&] {
      return std::make_unique<ReturnPath>(
          Duplicate(socket), table_->get(),
          ReturnPath::Options{.blocks = std::move(blocks),
                              .on_messages = [this](std::span<const uint8_t> bytes) { EmitMessages(bytes); },
                              .on_closed = [this](int error) { EmitClosed(error); }});
    });
  }
  // onRead(Buffer, or undefined at the end; errno)
  void EmitMessages(std::span<const uint8_t> bytes) {
    on_read_->Call([copy = std::vector<uint8_t>(bytes.begin(), bytes.end())](Napi::Env env) {
      return std::vector<napi_value>{Napi::Buffer<uint8_t>::Copy(env, copy.data(), copy.size()),
                                     Napi::Number::New(env, 0)};
    });
  }
  void EmitClosed(int error) {
    on_read_->Call([error](Napi::Env env) {
      return std::vector<napi_value>{env.Undefined(), Napi::Number::New(env, error)};
    });
  }
  // server, or undefined if there is none
  Napi::Value Attach(const Napi::CallbackInfo& info) {
    if (!info[0].IsUndefined()) server_.emplace(info[0]);
    path_->Attach(server_ ? (*server_)->get() : nullptr);
    return info.Env().Undefined();
  }
  Napi::Value Stop(const Napi::CallbackInfo& info) {
    path_.reset();
    return info.Env().Undefined();
  }

  Kept<Table> table_;
  std::optional<Kept<Server>> server_;
  // Declared before the reader, whose thread calls it until it ends. One callback for both events keeps their
  // order.
  std::unique_ptr<Callback> on_read_;
  std::unique_ptr<ReturnPath> path_;
};

}  // namespace

PageTable& TableOf(Napi::Value value) { return Table::Unwrap(value.As<Napi::Object>())->get(); }

std::vector<MemoryRegion> RegionsOf(Napi::Value value) {
  auto numbers = value.As<Napi::BigUint64Array>();
  std::vector<MemoryRegion> regions;
  for (size_t i = 0; i + 3 < numbers.ElementLength(); i += 4)
    regions.push_back({.address = numbers[i],
                       .first_page = numbers[i + 1],
                       .page_count = numbers[i + 2],
                       .page_bytes = numbers[i + 3]});
  return regions;
}

std::vector<PageRange> PageRangesOf(Napi::Value value) {
  auto numbers = value.As<Napi::Uint32Array>();
  std::vector<PageRange> ranges;
  for (size_t i = 0; i + 1 < numbers.ElementLength(); i += 2)
    ranges.push_back({.first = numbers[i], .count = numbers[i + 1]});
  return ranges;
}

void ExportFaultPath(Napi::Object exports) {
  Napi::Env env = exports.Env();
  exports.Set("PageTable", Table::Define(env));
  exports.Set("FaultServer", Server::Define(env));
  exports.Set("ReturnPath", Reader::Define(env));
}

}  // namespace vmckpt::binding
