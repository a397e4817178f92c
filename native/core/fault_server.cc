#include "core/fault_server.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>

#include "core/fault_background.h"
#include "core/fault_starvation.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

/** 128 KiB: a longer UFFDIO_COPY would delay all waiting faults. */
constexpr size_t kMaxRunPages = 32;

uint64_t LargestPage(std::span<const MemoryRegion> regions) {
  uint64_t largest = 0;
  for (const MemoryRegion& region : regions) largest = std::max(largest, region.page_bytes);
  return largest;
}

class Counted {
 public:
  explicit Counted(std::atomic<int>& count) : count_(count) { count_.fetch_add(1); }
  ~Counted() {
    if (count_.fetch_sub(1) == 1) count_.notify_all();
  }

 private:
  std::atomic<int>& count_;
};

}  // namespace

FaultServer::FaultServer(std::shared_ptr<CheckpointImage> image, PageTable& table, Userfaultfd userfaultfd,
                         Options options)
    : image_(std::move(image)),
      table_(table),
      userfaultfd_(std::move(userfaultfd)),
      options_(std::move(options)),
      stop_event_(Check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      postponed_event_(Check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE), "eventfd")),
      huge_zeros_(LargestPage(options_.regions)),
      starvation_(std::make_unique<Starvation>(*this)) {
  if (userfaultfd_.pages_may_go()) userfaultfd_.MakeNonBlocking();
  for (unsigned i = 0; i < options_.demand_threads; i++)
    demand_threads_.emplace_back([this] { DemandLoop(); });
}

FaultServer::~FaultServer() {
  stopping_ = true;
  ::eventfd_write(stop_event_.get(), 1);
  for (std::thread& thread : demand_threads_) thread.join();
  background_.reset();
  starvation_->Stop();
}

void FaultServer::StartBackground(BackgroundPlan plan) {
  background_ = std::make_unique<Background>(*this, std::move(plan));
}

void FaultServer::WakeAll(std::span<const AddressRange> ranges) {
  for (auto [start, end] : ranges) userfaultfd_.Wake(start, end - start);
}

void FaultServer::DemandLoop() {
  Worker worker;
  pollfd entries[] = {{.fd = userfaultfd_.get(), .events = POLLIN, .revents = 0},
                      {.fd = stop_event_.get(), .events = POLLIN, .revents = 0},
                      {.fd = postponed_event_.get(), .events = POLLIN, .revents = 0}};
  Guarded([&] {
    while (!stopping_) {
      Check(RetryOnSignal([&] { return ::poll(entries, 3, -1); }), "poll");
      if ((entries[0].revents & POLLERR) != 0) throw SystemError(EIO, "poll");
      while (auto address = NextFault())
        if (uint64_t page = PageAt(*address); page != InstallOrder::kNoPage)
          Serve(worker, page, Clock::now());
    }
  });
}

void FaultServer::ServeAll(Worker& worker, uint64_t first, uint64_t count) {
  const uint64_t step = RegionOf(first)->unit();
  for (uint64_t page = first; page < first + count; page += step) Serve(worker, page, Clock::now());
}

/** Serves a fault that arrived at `since`. */
void FaultServer::Serve(Worker& worker, uint64_t page, Clock::time_point since) {
  Counted active(demand_active_);
  const MemoryRegion& region = *RegionOf(page);
  page -= (page - region.first_page) % region.unit();
  while (!TryToServe(worker, page, since)) continue;
}

/** False when the source did not have the page, and something has arrived there since. */
bool FaultServer::TryToServe(Worker& worker, uint64_t page, Clock::time_point since) {
  const auto former = table_.Claim(page, true);
  const bool is_ours = former.has_value();
  bool is_over = true;
  bool done = Guarded([&] {
    if (is_ours) {
      is_over = ServeClaimed(worker, page, *former, since);
    } else if (userfaultfd_.pages_may_go() && IsSettled(page)) {
      InstallRemoved(page, since);
    } else {
      AwaitOther(page, since);
    }
  });
  if (is_ours && !done) table_.Settle(page, PageState::kFailed);
  return is_over;
}

/** `page` is claimed; before that it was in the state `former`. False as TryToServe(). */
bool FaultServer::ServeClaimed(Worker& worker, uint64_t page, PageState former, Clock::time_point since) {
  if (former != PageState::kStarving) trace_.Add(page, since);
  if (former == PageState::kWithheld) table_.counters().withheld_faults++;
  try {
    InstallDemanded(worker, page, since);
    return true;
  } catch (const SourceUnavailable& why) {
    if (former != PageState::kStarving) table_.starvation().pages++;
    GiveBack(page, PageState::kStarving);
    return starvation_->Add(page, since, why);
  }
}

void FaultServer::InstallDemanded(Worker& worker, uint64_t page, Clock::time_point since) {
  if (RegionOf(page)->is_huge()) {
    InstallHuge(worker, page, Lane::kDemand);
    return RecordFault(since);
  }
  PageEntry entry = image_->EntryOf(page);
  // Before anything is counted, because the source may not have it.
  ExtentCache::Buffer extent = entry.kind == PageKind::kData ? Read(worker, entry.extent) : nullptr;
  table_.counters().demand_pages.fetch_add(1, std::memory_order_relaxed);
  if (entry.kind == PageKind::kData) {
    Answer({.page = page, .bytes = extent.get() + entry.slot * kPageBytes, .page_count = 1}, since);
    InstallNeighbours(page, entry, extent.get());
  } else if (entry.kind == PageKind::kFill) {
    worker.page.fill(entry.fill);
    Answer({.page = page, .bytes = worker.page.data(), .page_count = 1}, since);
  } else {
    InstallZeros(page, since);
  }
}

/**
 * Installs what a fault requested. A separate call wakes the waiter afterwards: the kernel may give this CPU
 * to the woken thread for milliseconds, which would count as service time.
 */
void FaultServer::Answer(Run run, Clock::time_point since) {
  run.waiters = Userfaultfd::Waiters::kLeft;
  Install(run);
  RecordFault(since);
  userfaultfd_.Wake(AddressOf(run.page), run.page_count * kPageBytes);
}

/**
 * The extent is decompressed, so its other pages cost little, and they are likely to be needed next. They are
 * the pages around this one, up to the first page of another extent. src/working-set/units.ts relies on
 * exactly these.
 */
void FaultServer::InstallNeighbours(uint64_t page, const PageEntry& entry, const uint8_t* extent) {
  const MemoryRegion& region = *RegionOf(page);
  if (options_.exactly) return;
  RunInstaller installer(*this);
  auto look = [&](uint64_t first, int step) {
    uint64_t nearest = page;
    for (uint64_t next = first; next - region.first_page < region.page_count; next += step) {
      if ((step > 0 ? next - nearest : nearest - next) >= kMaxExtentPages) return;
      PageEntry other = image_->EntryOf(next);
      if (other.kind != PageKind::kData) continue;
      if (other.extent != entry.extent) return;
      nearest = next;
      if (!table_.Claim(next, false)) continue;
      installer.Add(next, extent + other.slot * kPageBytes);
      table_.counters().neighbour_pages.fetch_add(1, std::memory_order_relaxed);
    }
  };
  try {
    look(page + 1, 1);
    installer.Flush();
    look(page - 1, -1);
  } catch (const DamagedImage&) {
    // No other thread installs what this one has claimed.
    installer.Flush();
    throw;
  }
  installer.Flush();
}

/** `page` is claimed. The zero pages around it are installed with it. */
void FaultServer::InstallZeros(uint64_t page, Clock::time_point since) {
  const MemoryRegion& region = *RegionOf(page);
  uint64_t low = std::max(page / kZeroWindowPages * kZeroWindowPages, region.first_page);
  uint64_t high = std::min(page / kZeroWindowPages * kZeroWindowPages + kZeroWindowPages,
                           region.first_page + region.page_count);
  auto is_zero = [&](uint64_t other) {
    try {
      PageKind kind = image_->EntryOf(other).kind;
      return (kind == PageKind::kZero || kind == PageKind::kAbsent) && table_.Claim(other);
    } catch (const DamagedImage&) {
      return false;  // a fault on that page will report it
    }
  };
  uint64_t first = page;
  uint64_t end = page + 1;
  if (!options_.exactly) {
    while (first > low && is_zero(first - 1)) first--;
    while (end < high && is_zero(end)) end++;
  }
  const Run zeros{
      .page = first, .bytes = nullptr, .page_count = end - first, .waiters = Userfaultfd::Waiters::kLeft};
  // Without a registration, missing pages read as zero by themselves.
  if (Put(zeros) == Userfaultfd::Outcome::kInstalled) MarkInstalled(first, end - first);
  table_.counters().zero_pages.fetch_add(end - first, std::memory_order_relaxed);
  RecordFault(since);
  userfaultfd_.Wake(AddressOf(first), zeros.page_count * kPageBytes);
}

ExtentCache::Buffer FaultServer::Read(Worker& worker, uint32_t extent) {
  if (image_->IsRaw(extent)) {
    // The page cache has the bytes. A buffer that is reused stays in the processor's cache.
    if (!worker.raw_extent)
      worker.raw_extent =
          std::make_shared_for_overwrite<uint8_t[]>(image_->facts().extent_pages * kPageBytes);
    image_->ReadAlone(extent, worker.decoder, worker.raw_extent.get());
    return worker.raw_extent;
  }
  if (auto cached = cache_.Find(extent)) return cached;
  auto room = std::make_shared_for_overwrite<uint8_t[]>(image_->PagesOf(extent) * kPageBytes);
  image_->ReadAlone(extent, worker.decoder, room.get());
  cache_.Put(extent, room);
  return room;
}

void FaultServer::RunInstaller::Add(uint64_t page, const uint8_t* bytes) {
  const uint8_t* next = run_.bytes == nullptr ? nullptr : run_.bytes + run_.page_count * kPageBytes;
  bool follows = run_.page_count > 0 && run_.page_count < kMaxRunPages &&
                 page == run_.page + run_.page_count && bytes == next &&
                 server_.RegionOf(page) == server_.RegionOf(run_.page);
  if (!follows) {
    Flush();
    run_ = {.page = page, .bytes = bytes, .page_count = 0};
  }
  run_.page_count++;
}

void FaultServer::RunInstaller::Flush() {
  if (run_.page_count == 0) return;
  server_.Install(std::exchange(run_, {}));
}

void FaultServer::Install(const Run& run) {
  if (gone_) return;
  switch (Put(run)) {
    case Userfaultfd::Outcome::kInstalled:
      return MarkInstalled(run.page, run.page_count);
    case Userfaultfd::Outcome::kEventWaits:
      return;  // the server is stopping
    case Userfaultfd::Outcome::kWasThere:
      throw SystemError(ENOMEM, "UFFDIO_COPY of a huge page");
    case Userfaultfd::Outcome::kUnreadable:
      for (size_t i = 0; i < run.page_count; i++) table_.Settle(run.page + i, PageState::kFailed);
      throw DamagedImage(DamagedImage::Part::kExtent, "page " + std::to_string(run.page) + " of " +
                                                          image_->facts().label + " cannot be read");
    case Userfaultfd::Outcome::kGone:
      if (!gone_.exchange(true)) Report(ServerEvent::Kind::kGone, "");
  }
}

Userfaultfd::Outcome FaultServer::Put(const Run& run) {
  return userfaultfd_.pages_may_go() ? PutUnlessRemoved(run) : Place(run);
}

Userfaultfd::Outcome FaultServer::Place(const Run& run) {
  const size_t page_bytes = RegionOf(run.page)->page_bytes;
  const size_t bytes = run.page_count * kPageBytes;
  const uint64_t to = AddressOf(run.page);
  if (run.bytes != nullptr) return userfaultfd_.Copy(to, run.bytes, bytes, page_bytes, run.waiters);
  if (page_bytes == kPageBytes) return userfaultfd_.Zero(to, bytes, page_bytes, run.waiters);
  // hugetlbfs does not support UFFDIO_ZEROPAGE. Such a run is one page.
  return userfaultfd_.Copy(to, huge_zeros_.data(), bytes, page_bytes);
}

void FaultServer::MarkInstalled(uint64_t page, size_t page_count) {
  for (size_t i = 0; i < page_count; i++) table_.Settle(page + i, PageState::kInstalled);
  // A read-modify-write on both sides: either this thread sees the other's count, or the other one sees these
  // states.
  if (awaited_count_.fetch_add(0) > 0) ResolveAwaited(page, page_count);
}

/** A claimed page is not available yet: it can be claimed again. */
void FaultServer::GiveBack(uint64_t page, PageState state) {
  table_.Settle(page, state);
  // As in MarkInstalled().
  if (awaited_count_.fetch_add(0) > 0) StarveAwaited(page);
}

/** Whether nothing remains to be done for the page. */
bool FaultServer::IsSettled(uint64_t page) const {
  PageState state = table_.StateOf(page);
  return state == PageState::kInstalled || state == PageState::kRemoved;
}

uint64_t FaultServer::AddressOf(uint64_t page) const {
  const MemoryRegion& region = *RegionOf(page);
  return region.address + (page - region.first_page) * kPageBytes;
}

/** kNoPage for memory that is registered with the same userfaultfd but is not ours to serve. */
uint64_t FaultServer::PageAt(uint64_t address) const {
  for (const MemoryRegion& region : options_.regions)
    if (address - region.address < region.page_count * kPageBytes)
      return region.first_page + (address - region.address) / kPageBytes;
  return InstallOrder::kNoPage;
}

/** A fault on a page that is installed, or about to be. The thread that installs it wakes the waiter. */
void FaultServer::AwaitOther(uint64_t page, Clock::time_point since) {
  {
    std::lock_guard lock(awaited_mutex_);
    awaited_.push_back({.page = page, .since = since});
    awaited_count_.fetch_add(1);
  }
  const PageState state = table_.StateOf(page);
  if (PageTable::IsClaimable(state)) return StarveAwaited(page);
  if (state != PageState::kInstalled) return;
  ResolveAwaited(page, 1);
  // The fault may be older than the page: a process that had read it may have died, and its waiter still
  // sleeps.
  userfaultfd_.Wake(AddressOf(page), kPageBytes);
}

void FaultServer::ResolveAwaited(uint64_t page, size_t page_count) {
  std::lock_guard lock(awaited_mutex_);
  std::erase_if(awaited_, [&](const Awaited& fault) {
    if (fault.page - page >= page_count) return false;
    RecordFault(fault.since);
    awaited_count_.fetch_sub(1);
    return true;
  });
}

/** The thread that had claimed the page has given it back: the faults on it must be served otherwise. */
void FaultServer::StarveAwaited(uint64_t page) {
  std::vector<Awaited> faults;
  {
    std::lock_guard lock(awaited_mutex_);
    std::erase_if(awaited_, [&](const Awaited& fault) {
      if (fault.page != page) return false;
      faults.push_back(fault);
      awaited_count_.fetch_sub(1);
      return true;
    });
  }
  for (const Awaited& fault : faults)
    starvation_->AddAwaited(page, fault.since, "the source does not have it yet");
}

void FaultServer::RecordFault(Clock::time_point since) {
  table_.counters().demand_faults.fetch_add(1, std::memory_order_relaxed);
  table_.fault_times().Record(std::chrono::nanoseconds(Clock::now() - since).count());
}

void FaultServer::GiveWayToDemand() {
  while (int active = demand_active_.load()) demand_active_.wait(active);
}

void FaultServer::Report(const DamagedImage& damage) {
  bool is_extent = damage.part() == DamagedImage::Part::kExtent;
  Report(is_extent ? ServerEvent::Kind::kExtentDamaged : ServerEvent::Kind::kIndexDamaged, damage.what());
}

void FaultServer::Report(const SystemError& error) {
  Report(ServerEvent::Kind::kFailed, std::string(error.syscall()) + ": " + error.what());
}

void FaultServer::Report(ServerEvent::Kind kind, const std::string& text) {
  options_.on_event({.kind = kind, .text = text});
}

}  // namespace vmckpt
