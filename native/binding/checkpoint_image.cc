#include "binding/checkpoint_image.h"

#include <memory>
#include <utility>

#include "binding/background.h"
#include "binding/descriptors.h"
#include "binding/errors.h"
#include "binding/fault_path.h"
#include "binding/options.h"

namespace vmckpt::binding {

namespace {

class Image : public Napi::ObjectWrap<Image> {
 public:
  explicit Image(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Image>(info) {
    Options options(info[0]);
    Napi::Value page_table = options["pageTableFd"];
    auto extent_files = options["extentFiles"].As<Napi::Array>();
    Napi::Value hot_pack = options["hotPackFd"];
    ImageFiles files;
    files.catalog.page_table = Duplicate(page_table);
    if (!hot_pack.IsUndefined()) files.hot_pack = Duplicate(hot_pack);
    if (Napi::Value arrival = options["arrival"]; !arrival.IsUndefined()) files.arrival = ArrivalOf(arrival);
    ImageFacts facts{.format_version = options.Uint32("formatVersion"),
                     .page_count = options.Uint64("pageCount"),
                     .extent_pages = options.Uint64("extentPages"),
                     .page_index_root = options.BigUint64("pageIndexRoot"),
                     .extent_files = {},
                     .label = options.String("label")};
    options.Finish();
    for (uint32_t i = 0; i < extent_files.Length(); i++) AddExtentFile(extent_files.Get(i), files, facts);
    image_ = Translated(info.Env(), [&] { return CheckpointImage::Open(std::move(files), facts); });
  }

  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "CheckpointImage", {InstanceMethod<&Image::ReadAhead>("readAhead")});
  }
  const std::shared_ptr<CheckpointImage>& get() const { return image_; }

 private:
  static void AddExtentFile(Napi::Value value, ImageFiles& files, ImageFacts& facts) {
    Options options(value);
    files.extents.push_back(Duplicate(options["extentsFd"]));
    files.catalog.records.push_back(Duplicate(options["recordsFd"]));
    facts.extent_files.push_back({.place = options.Uint32("place"),
                                  .extent_count = options.Uint64("extentCount"),
                                  .records_offset = options.Uint64("recordsOffset"),
                                  .record_table_offset = options.Uint64("recordTableOffset"),
                                  .records_root = options.BigUint64("recordsRoot"),
                                  .chunks_offset = options.Uint64("chunksOffset"),
                                  .chunk_count = options.Uint64("chunkCount"),
                                  .name = options.String("name"),
                                  .id = options.String("id")});
    options.Finish();
  }

  static ArrivalFiles ArrivalOf(Napi::Value value) {
    Options options(value);
    ArrivalFiles arrival;
    auto presence = options["presenceFds"].As<Napi::Array>();
    for (uint32_t i = 0; i < presence.Length(); i++)
      arrival.presence.push_back(presence.Get(i).IsUndefined() ? Fd() : Duplicate(presence.Get(i)));
    arrival.wants = Duplicate(options["wantsFd"]);
    arrival.arrivals = Duplicate(options["arrivalsFd"]);
    options.Finish();
    return arrival;
  }

  // Uint32Array of (firstPage, pageCount)… → promise, because it may wait for the disk
  Napi::Value ReadAhead(const Napi::CallbackInfo& info) {
    auto work = [image = image_, ranges = PageRangesOf(info[0])] {
      image->ReadAhead(ranges);
      return true;
    };
    return InBackground(info.Env(), work, [](Napi::Env env, bool) { return env.Undefined(); });
  }

  std::shared_ptr<CheckpointImage> image_;
};

}  // namespace

std::shared_ptr<CheckpointImage> ImageOf(Napi::Value value) {
  return Image::Unwrap(value.As<Napi::Object>())->get();
}

void ExportCheckpointImage(Napi::Object exports) {
  exports.Set("CheckpointImage", Image::Define(exports.Env()));
}

}  // namespace vmckpt::binding
