#include "core/fault_background.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "core/back_off.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** What a thread takes at a time: for raw pages, one run of maximum length. */
constexpr uint64_t kBatchPages = 32;
/** How far ahead the kernel is told what will be read: 16 MiB, a quarter at a time. */
constexpr uint64_t kReadAheadPages = 4096;
/** Predicted pages are needed soon; the others can wait. */
constexpr int kPredictedNiceness = 4;
constexpr int kRestNiceness = 10;
/** The destructor of the server may have to wait this long. */
constexpr std::chrono::milliseconds kLongestWait{10};

}  // namespace

FaultServer::Background::Sender::Sender(FaultServer& server)
    : room(server.image_->facts().extent_pages * kPageBytes), installer(server) {}

FaultServer::Background::Background(FaultServer& server, BackgroundPlan plan)
    : server_(server), plan_(std::move(plan)), leader_([this] { Lead(); }) {}

FaultServer::Background::~Background() { leader_.join(); }

/** Sends everything together with its helpers, and makes sure that nothing is missing. */
void FaultServer::Background::Lead() {
  Guarded([this] { SendPredicted(); });
  Guarded([this] { SendRest(); });
  if (!MustStop()) server_.Report(ServerEvent::Kind::kComplete, "");
}

template <typename Part>
void FaultServer::Background::Guarded(Part part) {
  if (!MustStop() && !server_.Guarded(part)) failed_ = true;
}

/** Before the complete index is read. */
void FaultServer::Background::SendPredicted() {
  // Separate orders: near pages share extents with predicted ones, and would otherwise be installed with
  // them.
  for (const std::vector<PageRange>* ranges : {&plan_.predicted, &plan_.near}) {
    if (ranges->empty() || MustStop()) continue;
    InstallOrder order(*server_.image_, server_.options_.regions);
    for (PageRange range : *ranges) order.Add(range, InstallOrder::Zeros::kIncluded);
    Send(order, kPredictedNiceness);
  }
}

void FaultServer::Background::SendRest() {
  (void)::setpriority(PRIO_PROCESS, ::gettid(), kRestNiceness);
  InstallOrder order(*server_.image_, server_.options_.regions);
  for (PageRange range : plan_.likely) order.Add(range, InstallOrder::Zeros::kLeftOut);
  order.AddRest();
  FindHugePages();
  WaitUntil(plan_.rest_from, [this] { return MissesMuch(); });
  Send(order, kRestNiceness);
  // By now, a VM that needs withheld pages has touched them.
  WaitUntil(plan_.withheld_until, [] { return false; });
  SendLeftOver(order);
  // Pages that other threads have claimed take moments; damaged ones never come; the source may take any
  // time.
  for (BackOff pause; !MustStop() && !AllInstalled(order);) {
    std::this_thread::sleep_for(pause.Next());
    SendLeftOver(order);
  }
}

void FaultServer::Background::Send(const InstallOrder& order, int niceness) {
  next_ = 0;
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < server_.options_.background_threads; i++)
    threads.emplace_back([this, &order, niceness] {
      (void)::setpriority(PRIO_PROCESS, ::gettid(), niceness);
      Guarded([this, &order] { SendPieces(order); });
    });
}

void FaultServer::Background::SendPieces(const InstallOrder& order) {
  const uint64_t batch = order.PiecesOf(kBatchPages);
  const uint64_t ahead = kReadAheadPages / kBatchPages * batch;
  const uint64_t step = ahead / 4;
  Sender sender(server_);
  const uint64_t end = order.pieces().size();
  for (uint64_t at; !MustStop() && (at = next_.fetch_add(batch)) < end;) {
    if (at == 0) order.ReadAhead(0, ahead);
    if (at % step == 0) order.ReadAhead(at + ahead, step);
    for (uint64_t last = std::min(at + batch, end); at < last; at++)
      SendPiece(sender, order, order.pieces()[at], Withheld::kSpared);
    sender.installer.Flush();
  }
  SendHugePages();
}

void FaultServer::Background::SendPiece(Sender& sender, const InstallOrder& order,
                                        const InstallOrder::Piece& piece, Withheld withheld) {
  if (server_.demand_active_ > 0) {
    sender.installer.Flush();
    server_.GiveWayToDemand();
  }
  auto pages = order.AllPagesOf(piece);
  Claims claims{};
  size_t claimed_count = 0;
  size_t queued_count = 0;
  for (size_t slot = 0; slot < pages.size(); slot++) {
    if (pages[slot] == InstallOrder::kNoPage) continue;
    claims[slot] = server_.table_.Claim(pages[slot], withheld == Withheld::kSent);
    claimed_count += claims[slot].has_value();
    queued_count += claims[slot] == PageState::kQueued;
  }
  if (claimed_count == 0 || !Gather(sender, piece, pages, claims)) return;
  TransferCounters& counters = server_.table_.counters();
  if (piece.kind == PageKind::kZero) {
    counters.zero_pages.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  counters.prefetched_pages.fetch_add(queued_count, std::memory_order_relaxed);
  counters.background_pages.fetch_add(claimed_count - queued_count, std::memory_order_relaxed);
}

/** Passes the claimed pages of a piece to the installer. False when the source does not have them yet. */
bool FaultServer::Background::Gather(Sender& sender, const InstallOrder::Piece& piece,
                                     std::span<const uint32_t> pages, const Claims& claims) {
  if (piece.kind == PageKind::kZero) {
    sender.installer.Add(piece.number, nullptr);
    return true;
  }
  if (sender.installer.HoldsBytesOf(sender.room.data(), sender.room.size())) sender.installer.Flush();
  try {
    const uint8_t* bytes = sender.room.data();
    if (piece.kind == PageKind::kData)
      bytes = server_.image_->Read(piece.number, sender.decoder, sender.room.data());
    else
      std::fill_n(sender.room.begin(), kPageBytes, server_.image_->EntryOf(piece.number).fill);
    for (size_t slot = 0; slot < pages.size(); slot++)
      if (claims[slot]) sender.installer.Add(pages[slot], bytes + slot * kPageBytes);
    return true;
  } catch (const SourceUnavailable&) {
    for (size_t slot = 0; slot < pages.size(); slot++)
      if (claims[slot]) server_.GiveBack(pages[slot], *claims[slot]);
    return false;
  } catch (const DamagedImage&) {
    for (size_t slot = 0; slot < pages.size(); slot++)
      if (claims[slot]) server_.table_.Settle(pages[slot], PageState::kFailed);
    // Installs the intact pages of earlier pieces.
    sender.installer.Flush();
    throw;
  }
}

/** A withheld fault is counted before its page, so the difference may be negative for a moment. */
bool FaultServer::Background::MissesMuch() const {
  const TransferCounters& counters = server_.table_.counters();
  return counters.demand_pages > counters.withheld_faults + kPatienceMisses;
}

template <typename Condition>
void FaultServer::Background::WaitUntil(Clock::time_point instant, Condition or_else) const {
  for (Clock::time_point now; (now = Clock::now()) < instant && !MustStop() && !or_else();)
    std::this_thread::sleep_for(std::min<Clock::duration>(instant - now, kLongestWait));
}

/** Pages that were withheld, or whose source did not have them when their turn came. */
void FaultServer::Background::SendLeftOver(const InstallOrder& order) {
  auto is_left = [this](uint32_t page) {
    return page != InstallOrder::kNoPage && PageTable::IsClaimable(server_.table_.StateOf(page));
  };
  Sender sender(server_);
  for (const InstallOrder::Piece& piece : order.pieces()) {
    if (MustStop()) return;
    if (std::ranges::any_of(order.AllPagesOf(piece), is_left))
      SendPiece(sender, order, piece, Withheld::kSent);
    sender.installer.Flush();
  }
  SendHugePages();
}

void FaultServer::Background::FindHugePages() {
  for (const MemoryRegion& region : server_.options_.regions)
    for (uint64_t at = 0; region.is_huge() && at < region.page_count; at += region.unit())
      if (HasData(region, region.first_page + at)) huge_pages_.push_back(region.first_page + at);
}

bool FaultServer::Background::AllInstalled(const InstallOrder& order) const {
  auto is_missing = [this](uint64_t page) {
    return page != InstallOrder::kNoPage && !server_.IsSettled(page);
  };
  for (const InstallOrder::Piece& piece : order.pieces())
    if (std::ranges::any_of(order.AllPagesOf(piece), is_missing)) return false;
  return std::ranges::none_of(huge_pages_, is_missing);
}

}  // namespace vmckpt
