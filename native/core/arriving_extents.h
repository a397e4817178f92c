// The extents of a generation that is still arriving from elsewhere: a source in front of its packs, which
// have holes. It knows what is here and asks the fetcher for the rest; it never waits for it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/extent_source.h"
#include "core/fd.h"
#include "core/page_catalog.h"
#include "core/presence.h"
#include "core/shared_file.h"
#include "core/wants.h"

namespace vmckpt {

/** How the users of a cache and its fetcher reach each other. */
struct ArrivalFiles {
  /** For each file of extents, in the catalogue's order; none for one that is whole. */
  std::vector<Fd> presence;
  Fd wants;
  /** A word that counts arrivals is at its start. */
  Fd arrivals;
};

class ArrivingExtents : public ExtentSource {
 public:
  /** `files` reads the packs. Throws SystemError. */
  ArrivingExtents(std::shared_ptr<PageCatalog> catalog, ArrivalFiles arrival,
                  std::shared_ptr<ExtentSource> files);

  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) override;
  void ReadAhead(std::span<const uint32_t> extents, Lane lane) override;
  bool Has(uint64_t extent) override;
  uint32_t arrivals() const override;
  void AwaitArrival(uint32_t seen, std::chrono::microseconds longest) override;

 private:
  using Clock = std::chrono::steady_clock;

  struct Pack {
    PackId id;
    /** Null: all of it is here. */
    std::unique_ptr<Presence> presence;
  };
  class Announcement;

  bool IsHere(uint64_t extent, const Pack& pack, const ExtentRecord& record);
  [[noreturn]] void Refuse(uint64_t extent, const char* why, uint32_t seen);
  bool IsRefetched(uint64_t extent, const Pack& pack, const ExtentRecord& record);
  void NoteDamaged(uint64_t extent, const Pack& pack);
  void Demand(uint64_t extent, const Pack& pack, const ExtentRecord& record);

  std::shared_ptr<PageCatalog> catalog_;
  std::vector<Pack> packs_;
  const Wants wants_;
  const SharedFile arrivals_;
  std::shared_ptr<ExtentSource> files_;

  std::mutex mutex_;
  /** When an extent was demanded, so that those who try often do not ask as often. */
  std::unordered_map<uint64_t, Clock::time_point> demanded_;
  /** The extents that were damaged when they were read, and what their packs' refetch count was. */
  std::unordered_map<uint64_t, uint32_t> damaged_;
  std::atomic<bool> any_damaged_{false};
};

}  // namespace vmckpt
