#include "core/fault_background.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bitset>
#include <chrono>

#include "core/system_error.h"

namespace vmckpt {

namespace {

/** What a thread takes at a time: with raw extents of 8 pages, one longest run. */
constexpr uint64_t kBatchExtents = 4;
/** The kernel is told so far ahead of the sweep what will be read, a quarter at a time. */
constexpr uint64_t kReadAheadExtents = 512;
constexpr int kNiceness = 10;
constexpr std::chrono::microseconds kLookAgainAfter{200};
constexpr std::chrono::microseconds kLongestPause{50'000};

}  // namespace

FaultServer::Background::Sender::Sender(FaultServer& server)
    : room(server.image_->facts().extent_pages * kPageBytes), installer(server) {}

FaultServer::Background::Background(FaultServer& server, std::vector<uint32_t> first,
                                    Clock::time_point withheld_until)
    : server_(server),
      first_(std::move(first)),
      withheld_until_(withheld_until),
      leader_([this] { Lead(); }) {}

FaultServer::Background::~Background() { leader_.join(); }

/** Sends everything together with its helpers, and sees that nothing is missing. */
void FaultServer::Background::Lead() {
  Guarded([this] { BuildMap(); });
  std::vector<std::thread> helpers;
  for (unsigned i = 1; i < server_.options_.background_threads; i++)
    helpers.emplace_back([this] { Guarded([this] { SendAll(); }); });
  Guarded([this] { SendAll(); });
  for (std::thread& helper : helpers) helper.join();
  Guarded([this] { SendWithheld(); });
  Guarded([this] { SendFillPages(); });
  // Longer and longer: what others have in hand takes moments, what is damaged never comes.
  for (auto pause = kLookAgainAfter; !MustStop() && !AllInstalled();
       pause = std::min(2 * pause, kLongestPause))
    std::this_thread::sleep_for(pause);
  if (!MustStop()) server_.Report(ServerEvent::Kind::kComplete, "");
}

template <typename Part>
void FaultServer::Background::Guarded(Part part) {
  if (!MustStop() && !server_.Guarded(part)) failed_ = true;
}

void FaultServer::Background::BuildMap() {
  std::vector<ExtentMap::PageRange> ranges;
  for (const MemoryRegion& region : server_.options_.regions) {
    if (!region.is_huge()) ranges.push_back({.first = region.first_page, .count = region.page_count});
    for (uint64_t at = 0; region.is_huge() && at < region.page_count; at += region.unit())
      if (HasData(region, region.first_page + at)) huge_pages_.push_back(region.first_page + at);
  }
  map_.emplace(*server_.image_, ranges);
}

void FaultServer::Background::SendAll() {
  (void)::setpriority(PRIO_PROCESS, ::gettid(), kNiceness);
  SendExtents();
  SendHugePages();
}

void FaultServer::Background::SendExtents() {
  Sender sender(server_);
  const uint64_t end = first_.size() + server_.image_->facts().extent_count;
  while (!MustStop()) {
    uint64_t position = next_.fetch_add(kBatchExtents);
    if (position >= end) return;
    ReadAhead(position);
    for (uint64_t last = std::min(position + kBatchExtents, end); position < last; position++)
      SendExtent(sender, ExtentAt(position), Withheld::kSpared);
    sender.installer.Flush();
  }
}

void FaultServer::Background::SendExtent(Sender& sender, uint32_t extent, Withheld withheld) {
  if (server_.demand_active_ > 0) {
    sender.installer.Flush();
    server_.GiveWayToDemand();
  }
  auto pages = map_->PagesOf(extent);
  std::bitset<kMaxExtentPages> claimed;
  size_t queued_count = 0;
  for (size_t slot = 0; slot < pages.size(); slot++) {
    if (pages[slot] == ExtentMap::kNoPage) continue;
    auto former = server_.table_.Claim(pages[slot], withheld == Withheld::kSent);
    claimed[slot] = former.has_value();
    queued_count += former == PageState::kQueued;
  }
  if (claimed.none()) return;
  if (sender.installer.HoldsBytesOf(sender.room.data(), sender.room.size())) sender.installer.Flush();
  try {
    const uint8_t* bytes = server_.image_->Read(extent, sender.decoder, sender.room.data());
    for (size_t slot = 0; slot < pages.size(); slot++)
      if (claimed[slot]) sender.installer.Add(pages[slot], bytes + slot * kPageBytes);
  } catch (const DamagedImage&) {
    for (size_t slot = 0; slot < pages.size(); slot++)
      if (claimed[slot]) server_.table_.Settle(pages[slot], PageState::kFailed);
    // Pages of extents before this one, which are sound.
    sender.installer.Flush();
    throw;
  }
  TransferCounters& counters = server_.table_.counters();
  counters.prefetched_pages.fetch_add(queued_count, std::memory_order_relaxed);
  counters.background_pages.fetch_add(claimed.count() - queued_count, std::memory_order_relaxed);
}

/** Whoever is going to touch them has had the time to. */
void FaultServer::Background::SendWithheld() {
  while (Clock::now() < withheld_until_ && !MustStop()) std::this_thread::sleep_for(kLookAgainAfter);
  Sender sender(server_);
  for (const MemoryRegion& region : server_.options_.regions) {
    for (uint64_t page = region.first_page; page < region.first_page + region.page_count; page++) {
      if (server_.table_.StateOf(page) != PageState::kWithheld || MustStop()) continue;
      PageEntry entry = server_.image_->EntryOf(page);
      if (entry.kind == PageKind::kData) SendExtent(sender, entry.extent, Withheld::kSent);
      sender.installer.Flush();
    }
  }
}

void FaultServer::Background::SendFillPages() {
  std::vector<uint8_t> room(kPageBytes);
  RunInstaller installer(server_);
  for (uint32_t page : map_->fill_pages()) {
    if (MustStop()) return;
    server_.GiveWayToDemand();
    if (!server_.table_.Claim(page)) continue;
    std::fill(room.begin(), room.end(), server_.image_->EntryOf(page).fill);
    installer.Add(page, room.data());
    installer.Flush();
    server_.table_.counters().background_pages.fetch_add(1, std::memory_order_relaxed);
  }
}

uint32_t FaultServer::Background::ExtentAt(uint64_t position) const {
  return position < first_.size() ? first_[position] : position - first_.size();
}

void FaultServer::Background::ReadAhead(uint64_t position) {
  constexpr uint64_t kStep = kReadAheadExtents / 4;
  if (position < first_.size() || (position - first_.size()) / kBatchExtents % (kStep / kBatchExtents) != 0)
    return;
  if (position - first_.size() < kBatchExtents) server_.image_->ReadAhead(0, kReadAheadExtents);
  server_.image_->ReadAhead(position - first_.size() + kReadAheadExtents, kStep);
}

bool FaultServer::Background::AllInstalled() const {
  auto is_missing = [this](uint64_t page) { return page != ExtentMap::kNoPage && !server_.IsSettled(page); };
  const uint64_t extent_count = server_.image_->facts().extent_count;
  for (uint64_t extent = 0; extent < extent_count; extent++)
    if (std::ranges::any_of(map_->PagesOf(extent), is_missing)) return false;
  return std::ranges::none_of(map_->fill_pages(), is_missing) &&
         std::ranges::none_of(huge_pages_, is_missing);
}

}  // namespace vmckpt
