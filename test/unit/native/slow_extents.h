// A source that does not have some of its extents yet, in front of one that has all of them: the double of a
// server that is slow or away. test/support/slow-extents.ts is the same in TypeScript.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <utility>

#include "core/extent_source.h"
#include "core/image_errors.h"
#include "core/shared_file.h"

namespace vmckpt {

class SlowExtents : public ExtentSource {
 public:
  explicit SlowExtents(std::shared_ptr<ExtentSource> behind) : behind_(std::move(behind)) {}

  void Withhold(uint64_t extent) {
    std::lock_guard lock(mutex_);
    withheld_.insert(extent);
  }
  void Deliver(uint64_t extent) {
    {
      std::lock_guard lock(mutex_);
      withheld_.erase(extent);
    }
    RaiseWord(arrivals_);
  }
  /** How often an extent was asked for that is not here. */
  unsigned refusals() {
    std::lock_guard lock(mutex_);
    return refusals_;
  }

  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) override {
    const uint32_t seen = arrivals_;
    if (!Has(extent)) throw SourceUnavailable("extent " + std::to_string(extent) + " is not here yet", seen);
    return behind_->Read(extent, decoder, into, access);
  }
  void ReadAhead(std::span<const uint32_t> extents, Lane lane) override { behind_->ReadAhead(extents, lane); }
  bool Has(uint64_t extent) override {
    std::lock_guard lock(mutex_);
    const bool has = !withheld_.contains(extent);
    refusals_ += !has;
    return has;
  }
  uint32_t arrivals() const override { return arrivals_; }
  void AwaitArrival(uint32_t seen, std::chrono::microseconds longest) override {
    AwaitWord(arrivals_, seen, longest);
  }

 private:
  std::shared_ptr<ExtentSource> behind_;
  std::mutex mutex_;
  std::set<uint64_t> withheld_;
  unsigned refusals_ = 0;
  std::atomic<uint32_t> arrivals_{0};
};

}  // namespace vmckpt
