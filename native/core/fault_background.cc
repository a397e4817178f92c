#include "core/fault_background.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

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
/** What a source does not have after this time is announced once more. */
constexpr std::chrono::milliseconds kRepeatAfter{200};

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
    InstallOrder& order = orders_.emplace_back(*server_.image_, server_.options_.regions);
    for (PageRange range : *ranges) order.Add(range, InstallOrder::Zeros::kIncluded);
    Send(works_.emplace_back(Work{.order = order, .lane = Lane::kPredicted}));
  }
}

void FaultServer::Background::SendRest() {
  (void)::setpriority(PRIO_PROCESS, ::gettid(), kRestNiceness);
  InstallOrder& order = orders_.emplace_back(*server_.image_, server_.options_.regions);
  for (PageRange range : plan_.likely) order.Add(range, InstallOrder::Zeros::kLeftOut);
  order.AddRest();
  FindHugePages();
  WaitUntil(plan_.rest_from, [this] { return MissesMuch(); });
  Send(works_.emplace_back(Work{.order = order, .lane = Lane::kRest}));
  // By now, a VM that needs withheld pages has touched them.
  WaitUntil(plan_.withheld_until, [] { return false; });
  const Work& left_over =
      works_.emplace_back(Work{.order = order, .lane = Lane::kRest, .withheld_too = true});
  SendLeftOver(left_over);
  // Pages that other threads have claimed take moments; damaged ones never come; the source may take any
  // time.
  for (BackOff pause; !MustStop() && !AllInstalled(order);) {
    std::this_thread::sleep_for(pause.Next());
    SendLeftOver(left_over);
  }
}

void FaultServer::Background::Send(const Work& work) {
  next_ = 0;
  std::vector<std::jthread> threads;
  for (unsigned i = 0; i < server_.options_.background_threads; i++)
    threads.emplace_back([this, &work] {
      const int niceness = work.lane == Lane::kPredicted ? kPredictedNiceness : kRestNiceness;
      (void)::setpriority(PRIO_PROCESS, ::gettid(), niceness);
      Guarded([this, &work] { SendPieces(work); });
    });
}

void FaultServer::Background::SendPieces(const Work& work) {
  const InstallOrder& order = work.order;
  const uint64_t batch = order.PiecesOf(kBatchPages);
  const uint64_t ahead = kReadAheadPages / kBatchPages * batch;
  const uint64_t step = ahead / 4;
  Sender sender(server_);
  const uint64_t end = order.pieces().size();
  for (uint64_t at; !MustStop() && (at = next_.fetch_add(batch)) < end;) {
    if (at == 0) order.ReadAhead(order.PiecesFrom(0, ahead), work.lane);
    if (at % step == 0) order.ReadAhead(order.PiecesFrom(at + ahead, step), work.lane);
    for (const InstallOrder::Piece& piece : order.PiecesFrom(at, batch)) SendPiece(sender, work, piece);
    sender.installer.Flush();
    SendLate(sender, ahead);
  }
  // The rest does not wait longer for what is predicted and does not come.
  SendLate(sender, 0, work.lane == Lane::kPredicted ? Patience::kUntilRest : Patience::kEndless);
  SendHugePages();
}

/** A piece whose source does not have it yet is put aside. */
void FaultServer::Background::SendPiece(Sender& sender, const Work& work, const InstallOrder::Piece& piece) {
  if (!TryToSend(sender, work, piece)) late_.Add({.work = &work, .piece = piece});
}

/** Sends pieces that were put aside, as they arrive, until at most `most` are left, or the rest is due. */
void FaultServer::Background::SendLate(Sender& sender, uint64_t most, Patience patience) {
  while (late_.count() > most && !MustStop()) {
    if (patience == Patience::kUntilRest && RestIsDue()) return;
    const uint32_t seen = server_.image_->arrivals();
    const std::vector<LatePiece> pieces = late_.Take();
    if (late_.AreOverdue()) AnnounceAgain(pieces);
    bool any_sent = false;
    for (const LatePiece& late : pieces) {
      if (MustStop()) return;
      if (TryToSend(sender, *late.work, late.piece))
        any_sent = true;
      else
        late_.Add(late);
    }
    sender.installer.Flush();
    if (!any_sent) server_.image_->AwaitArrival(seen, kLongestWait);
  }
}

void FaultServer::Background::AnnounceAgain(std::span<const LatePiece> pieces) const {
  for (const Work& work : works_) {
    std::vector<InstallOrder::Piece> of_work;
    for (const LatePiece& late : pieces)
      if (late.work == &work) of_work.push_back(late.piece);
    work.order.ReadAhead(of_work, work.lane);
  }
}

/** False when the source does not have it yet. */
bool FaultServer::Background::TryToSend(Sender& sender, const Work& work, const InstallOrder::Piece& piece) {
  if (server_.demand_active_ > 0) {
    sender.installer.Flush();
    server_.GiveWayToDemand();
  }
  if (piece.kind == PageKind::kData && !server_.image_->Has(piece.number)) return !IsLeft(work.order, piece);
  auto pages = work.order.AllPagesOf(piece);
  Claims claims{};
  size_t claimed_count = 0;
  size_t queued_count = 0;
  for (size_t slot = 0; slot < pages.size(); slot++) {
    if (pages[slot] == InstallOrder::kNoPage) continue;
    claims[slot] = server_.table_.Claim(pages[slot], work.withheld_too);
    claimed_count += claims[slot].has_value();
    queued_count += claims[slot] == PageState::kQueued;
  }
  if (claimed_count == 0) return true;
  if (!Gather(sender, piece, pages, claims)) return false;
  TransferCounters& counters = server_.table_.counters();
  if (piece.kind == PageKind::kZero) {
    counters.zero_pages.fetch_add(1, std::memory_order_relaxed);
    return true;
  }
  counters.prefetched_pages.fetch_add(queued_count, std::memory_order_relaxed);
  counters.background_pages.fetch_add(claimed_count - queued_count, std::memory_order_relaxed);
  return true;
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

bool FaultServer::Background::RestIsDue() const { return Clock::now() >= plan_.rest_from || MissesMuch(); }

template <typename Condition>
void FaultServer::Background::WaitUntil(Clock::time_point instant, Condition or_else) const {
  for (Clock::time_point now; (now = Clock::now()) < instant && !MustStop() && !or_else();)
    std::this_thread::sleep_for(std::min<Clock::duration>(instant - now, kLongestWait));
}

/** Pages that were withheld, or that another thread gave back. */
void FaultServer::Background::SendLeftOver(const Work& work) {
  Sender sender(server_);
  for (const InstallOrder::Piece& piece : work.order.pieces()) {
    if (MustStop()) return;
    if (IsLeft(work.order, piece)) SendPiece(sender, work, piece);
    sender.installer.Flush();
  }
  SendLate(sender, 0);
  SendHugePages();
}

bool FaultServer::Background::IsLeft(const InstallOrder& order, const InstallOrder::Piece& piece) const {
  return std::ranges::any_of(order.AllPagesOf(piece), [this](uint32_t page) {
    return page != InstallOrder::kNoPage && PageTable::IsClaimable(server_.table_.StateOf(page));
  });
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

void FaultServer::Background::LatePieces::Add(const LatePiece& piece) {
  std::lock_guard lock(mutex_);
  if (asked_at_ == Clock::time_point{}) asked_at_ = Clock::now();
  pieces_.push_back(piece);
  count_ = pieces_.size();
}

auto FaultServer::Background::LatePieces::Take() -> std::vector<LatePiece> {
  std::lock_guard lock(mutex_);
  count_ = 0;
  return std::exchange(pieces_, {});
}

bool FaultServer::Background::LatePieces::AreOverdue() {
  std::lock_guard lock(mutex_);
  if (Clock::now() - asked_at_ < kRepeatAfter) return false;
  asked_at_ = Clock::now();
  return true;
}

}  // namespace vmckpt
