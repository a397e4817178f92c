// A source with a hot pack in front of it: intact extents in the pack are read from there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "core/extent_source.h"
#include "core/hot_pack.h"
#include "core/page_catalog.h"

namespace vmckpt {

class PackedExtents : public ExtentSource {
 public:
  PackedExtents(std::shared_ptr<PageCatalog> catalog, std::unique_ptr<HotPack> pack,
                std::shared_ptr<ExtentSource> behind)
      : catalog_(std::move(catalog)), pack_(std::move(pack)), behind_(std::move(behind)) {}

  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) override;

  void ReadAhead(std::span<const uint32_t> extents, Lane lane) override;
  bool Has(uint64_t extent) override { return pack_->Has(extent) || behind_->Has(extent); }
  uint32_t arrivals() const override { return behind_->arrivals(); }
  void AwaitArrival(uint32_t seen, std::chrono::microseconds longest) override {
    behind_->AwaitArrival(seen, longest);
  }

 private:
  std::shared_ptr<PageCatalog> catalog_;
  std::unique_ptr<HotPack> pack_;
  std::shared_ptr<ExtentSource> behind_;
};

}  // namespace vmckpt
