#include "core/arriving_extents.h"

#include <string>
#include <utility>

namespace vmckpt {

namespace {

/** Longer than a round trip to most sources: only what was lost is asked for again. */
constexpr std::chrono::milliseconds kRepeatAfter{100};
constexpr size_t kMaxNoted = 4096;
/** An announcement for what lies so near takes one record. */
constexpr uint64_t kAnnouncedGapBytes = 16 << 10;
constexpr uint64_t kMaxAnnouncedBytes = 1 << 20;

}  // namespace

/** Gathers neighbours, so that there are few records. */
class ArrivingExtents::Announcement {
 public:
  Announcement(const Wants& wants, Lane lane) : wants_(wants), lane_(lane) {}

  void Add(const Pack& pack, const ExtentRecord& record) {
    const uint64_t end = record.offset + record.stored_bytes;
    const bool follows = pack_ == &pack && record.offset >= end_ &&
                         record.offset - end_ <= kAnnouncedGapBytes && end - begin_ <= kMaxAnnouncedBytes;
    if (!follows) {
      Send();
      pack_ = &pack;
      begin_ = record.offset;
    }
    end_ = end;
  }

  void Send() {
    if (pack_ == nullptr) return;
    (void)wants_.Ask(
        {.pack = pack_->id, .offset = begin_, .bytes = static_cast<uint32_t>(end_ - begin_), .lane = lane_});
    pack_ = nullptr;
  }

 private:
  const Wants& wants_;
  const Lane lane_;
  const Pack* pack_ = nullptr;
  uint64_t begin_ = 0;
  uint64_t end_ = 0;
};

ArrivingExtents::ArrivingExtents(std::shared_ptr<PageCatalog> catalog, ArrivalFiles arrival,
                                 std::shared_ptr<ExtentSource> files)
    : catalog_(std::move(catalog)),
      wants_(std::move(arrival.wants)),
      arrivals_(arrival.arrivals, SharedFile::Use::kRead),
      files_(std::move(files)) {
  for (size_t at = 0; at < arrival.presence.size(); at++)
    packs_.push_back(
        {.id = PackIdOf(catalog_->facts().extent_files[at].id),
         .presence = arrival.presence[at] ? std::make_unique<Presence>(arrival.presence[at]) : nullptr});
}

const uint8_t* ArrivingExtents::Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) {
  const ExtentRecord record = catalog_->RecordOf(extent);
  const Pack& pack = packs_[catalog_->FileOf(extent)];
  if (pack.presence == nullptr) return files_->Read(extent, decoder, into, access);
  if (!IsHere(extent, pack, record)) {
    const uint32_t seen = arrivals();
    // It may have arrived before that.
    if (!IsHere(extent, pack, record)) {
      Demand(extent, pack, record);
      Refuse(extent, "is not here yet", seen);
    }
  }
  const bool is_refetched = any_damaged_ && IsRefetched(extent, pack, record);
  try {
    // Not in place, where what is fetched once more is written.
    return files_->Read(extent, decoder, into, Access::kCopied);
  } catch (const DamagedImage&) {
    if (is_refetched) throw;
  }
  NoteDamaged(extent, pack);
  Demand(extent, pack, record);
  Refuse(extent, "has arrived damaged and is fetched once more", arrivals());
}

void ArrivingExtents::ReadAhead(std::span<const uint32_t> extents, Lane lane) {
  std::vector<uint32_t> here;
  Announcement announcement(wants_, lane);
  for (uint32_t extent : extents) {
    const ExtentRecord record = catalog_->RecordOf(extent);
    const Pack& pack = packs_[catalog_->FileOf(extent)];
    if (pack.presence == nullptr || IsHere(extent, pack, record))
      here.push_back(extent);
    else if (lane == Lane::kDemand)
      Demand(extent, pack, record);
    else
      announcement.Add(pack, record);
  }
  announcement.Send();
  files_->ReadAhead(here, lane);
}

bool ArrivingExtents::Has(uint64_t extent) {
  const ExtentRecord record = catalog_->RecordOf(extent);
  const Pack& pack = packs_[catalog_->FileOf(extent)];
  return pack.presence == nullptr || IsHere(extent, pack, record);
}

uint32_t ArrivingExtents::arrivals() const { return arrivals_.At<uint32_t>(0).load(); }

void ArrivingExtents::AwaitArrival(uint32_t seen, std::chrono::microseconds longest) {
  AwaitWord(arrivals_.At<uint32_t>(0), seen, longest);
}

bool ArrivingExtents::IsHere(uint64_t extent, const Pack& pack, const ExtentRecord& record) {
  if (!pack.presence->Has(record.offset, record.stored_bytes)) return false;
  if (!any_damaged_) return true;
  {
    std::lock_guard lock(mutex_);
    if (!damaged_.contains(extent)) return true;
  }
  return IsRefetched(extent, pack, record);
}

void ArrivingExtents::Refuse(uint64_t extent, const char* why, uint32_t seen) {
  throw SourceUnavailable("extent " + std::to_string(extent) + " of " + catalog_->facts().label + " " + why,
                          seen);
}

bool ArrivingExtents::IsRefetched(uint64_t extent, const Pack& pack, const ExtentRecord& record) {
  std::lock_guard lock(mutex_);
  const auto found = damaged_.find(extent);
  return found != damaged_.end() && pack.presence->WasRefetched(record.offset, found->second);
}

/** The first time counts: a thread may have read it before it was fetched once more. */
void ArrivingExtents::NoteDamaged(uint64_t extent, const Pack& pack) {
  std::lock_guard lock(mutex_);
  if (damaged_.try_emplace(extent, pack.presence->refetch_count()).second) demanded_.erase(extent);
  any_damaged_ = true;
}

void ArrivingExtents::Demand(uint64_t extent, const Pack& pack, const ExtentRecord& record) {
  const auto now = Clock::now();
  std::lock_guard lock(mutex_);
  if (demanded_.size() >= kMaxNoted) demanded_.clear();
  Clock::time_point& last = demanded_[extent];
  if (now - last < kRepeatAfter) return;
  const auto damaged = damaged_.find(extent);
  const bool again =
      damaged != damaged_.end() && !pack.presence->WasRefetched(record.offset, damaged->second);
  if (wants_.Ask({.pack = pack.id,
                  .offset = record.offset,
                  .bytes = record.stored_bytes,
                  .lane = Lane::kDemand,
                  .again = again}))
    last = now;
}

}  // namespace vmckpt
