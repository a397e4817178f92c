// Tests of native/core's fault path, for sanitizers: real userfaultfds over memory of this process.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/fault_server.h"
#include "core/file_extents.h"
#include "core/return_path.h"
#include "core/system_error.h"
#include "late_filler.h"
#include "scenario.h"
#include "slow_extents.h"

namespace vmckpt {
namespace {

constexpr auto kDeadline = std::chrono::seconds(60);

/** Memory that waits for its pages. */
class Guest {
 public:
  explicit Guest(uint64_t page_count, uint64_t features = 0)
      : page_count_(page_count),
        memory_(page_count * kPageBytes),
        fd_(static_cast<int>(Check(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), "userfaultfd"))) {
    uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
    Check(::ioctl(fd_.get(), UFFDIO_API, &api), "UFFDIO_API");
    Register(memory_.data(), memory_.size());
  }

  void Register(void* start, size_t bytes) {
    uffdio_register range{.range = {.start = reinterpret_cast<uint64_t>(start), .len = bytes},
                          .mode = UFFDIO_REGISTER_MODE_MISSING,
                          .ioctls = 0};
    Check(::ioctl(fd_.get(), UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
  }

  Userfaultfd Duplicate(Userfaultfd::Pages pages = Userfaultfd::Pages::kStay) const {
    return Userfaultfd(Fd(Check(::dup(fd_.get()), "dup")), pages);
  }
  uint8_t* memory() const { return memory_.data(); }
  uint64_t address() const { return reinterpret_cast<uint64_t>(memory_.data()); }
  uint64_t page_count() const { return page_count_; }
  std::vector<AddressRange> Ranges() const {
    return {{.start = address(), .end = address() + memory_.size()}};
  }

  void Unregister() {
    uffdio_range range = Range();
    Check(::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range), "UFFDIO_UNREGISTER");
  }

  bool IsRight(uint64_t page) const {
    auto* words = reinterpret_cast<const volatile uint32_t*>(memory_.data() + page * kPageBytes);
    for (size_t i = 0; i < kPageBytes / 4; i++)
      if (words[i] != WordOf(page, i)) return false;
    return true;
  }

  bool IsPresent(uint64_t page) const {
    unsigned char present = 0;
    Check(::mincore(memory_.data() + page * kPageBytes, kPageBytes, &present), "mincore");
    return (present & 1) != 0;
  }

  /** Touches every page once, in an order of its own. */
  void Read(uint64_t seed) const {
    std::vector<uint64_t> pages(page_count_);
    for (uint64_t page = 0; page < page_count_; page++) pages[page] = page;
    std::shuffle(pages.begin(), pages.end(), std::mt19937_64(seed));
    for (uint64_t page : pages) EXPECT(IsRight(page));
  }

 private:
  uffdio_range Range() const { return {.start = address(), .len = memory_.size()}; }

  uint64_t page_count_;
  AnonymousMemory memory_;
  Fd fd_;
};

class Events {
 public:
  void Add(const ServerEvent& event) {
    std::lock_guard lock(mutex_);
    events_[event.kind].push_back(event.text);
    changed_.notify_all();
  }
  bool Has(ServerEvent::Kind kind) { return CountOf(kind) > 0; }
  size_t CountOf(ServerEvent::Kind kind) {
    std::lock_guard lock(mutex_);
    return events_.contains(kind) ? events_[kind].size() : 0;
  }
  std::string Await(ServerEvent::Kind kind) {
    std::unique_lock lock(mutex_);
    EXPECT(changed_.wait_for(lock, kDeadline, [&] { return events_.contains(kind); }));
    return events_[kind].front();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<ServerEvent::Kind, std::vector<std::string>> events_;
};

struct Served {
  Guest& guest;
  PageTable& table;
  Events& events;
};

std::unique_ptr<FaultServer> Serve(const Source& source, Served vm) {
  return std::make_unique<FaultServer>(
      source.Open(), vm.table, vm.guest.Duplicate(),
      FaultServer::Options{
          .regions = {{.address = vm.guest.address(), .first_page = 0, .page_count = vm.guest.page_count()}},
          .demand_threads = 2,
          .background_threads = 2,
          .on_event = [&events = vm.events](const ServerEvent& event) { events.Add(event); }});
}

struct Machine {
  explicit Machine(const Source& source)
      : guest(source.facts.page_count), table(PageTable::Create(source.facts.page_count)) {}
  Guest guest;
  PageTable table;
  Events events;
  Served served() { return {.guest = guest, .table = table, .events = events}; }
};

void ReadBy(const Guest& guest, unsigned readers) {
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < readers; i++) threads.emplace_back([&guest, i] { guest.Read(i); });
  for (std::thread& thread : threads) thread.join();
}

void DemandOnly(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  ReadBy(vm.guest, 4);
  server.reset();
  const TransferCounters& counters = vm.table.counters();
  EXPECT(vm.table.fault_times().count() == counters.demand_faults);
  EXPECT(counters.demand_faults >= counters.demand_pages);
  EXPECT(counters.neighbour_pages > counters.demand_pages);
  EXPECT(counters.background_pages == 0);
  EXPECT(!vm.events.Has(ServerEvent::Kind::kFailed) && !vm.events.Has(ServerEvent::Kind::kExtentDamaged));
}

void Background(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  server->StartBackground({.predicted = {{.first = 60, .count = 3}, {.first = 25, .count = 8}},
                           .likely = {{.first = 128, .count = 64}},
                           .withheld_until = FaultServer::Clock::now()});
  ReadBy(vm.guest, 3);
  vm.events.Await(ServerEvent::Kind::kComplete);
  for (uint64_t page = 0; page < source.facts.page_count; page++)
    EXPECT(vm.table.StateOf(page) == PageState::kInstalled);
  EXPECT(!vm.events.Has(ServerEvent::Kind::kFailed) && !vm.events.Has(ServerEvent::Kind::kExtentDamaged));
}

/** Nobody asks for anything: zero pages come where they are predicted, and nowhere else. */
void Predicted(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  server->StartBackground({.predicted = {{.first = 60, .count = 40}},
                           .near = {{.first = 25, .count = 8}},
                           .likely = {{.first = 128, .count = 64}}});
  vm.events.Await(ServerEvent::Kind::kComplete);
  for (uint64_t page = 0; page < source.facts.page_count; page++) {
    bool is_predicted = page - 60 < 40 || page - 25 < 8;
    EXPECT(vm.guest.IsPresent(page) == (HoldsData(page) || is_predicted));
  }
}

/** Servers come and go, and leave claims behind, while the guest reads. */
void TakeOver(const Source& source) {
  Machine vm(source);
  std::mt19937_64 random(7);
  std::thread guest([&] { ReadBy(vm.guest, 3); });
  for (int round = 0; round < 20; round++) {
    auto server = Serve(source, vm.served());
    server->WakeAll(vm.guest.Ranges());
    if (round % 2 == 1) server->StartBackground({});
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
    server.reset();
    for (int claim = 0; claim < 20; claim++) vm.table.Claim(random() % source.facts.page_count);
    PageTable adopted = PageTable::Adopt(Fd(::dup(vm.table.fd())), source.facts.page_count);
    adopted.ForgetClaims();
  }
  auto server = Serve(source, vm.served());
  server->WakeAll(vm.guest.Ranges());
  server->StartBackground({});
  guest.join();
  vm.events.Await(ServerEvent::Kind::kComplete);
}

/** What is withheld comes only when it is asked for, or at the end; what is queued is counted apart. */
void Withheld(const Source& source) {
  Machine vm(source);
  vm.table.Plan(1000, 100, PageState::kWithheld);
  vm.table.Plan(2000, 50, PageState::kQueued);
  auto server = Serve(source, vm.served());
  server->StartBackground(
      {.predicted = {}, .likely = {}, .withheld_until = FaultServer::Clock::now() + std::chrono::hours(1)});
  EXPECT(vm.guest.IsRight(1001));
  EXPECT(vm.table.counters().withheld_faults == 1);
  EXPECT(server->trace().Faults().front().page == 1001);
  do {
    std::vector<uint64_t> present;
    for (uint64_t page = 1000; page < 1100; page++)
      if (vm.guest.IsPresent(page)) present.push_back(page);
    EXPECT(present == std::vector<uint64_t>{1001});
  } while (vm.table.counters().prefetched_pages < 25);
  // For one that comes after it, their time has come.
  server.reset();
  server = Serve(source, vm.served());
  server->StartBackground({});
  vm.events.Await(ServerEvent::Kind::kComplete);
  for (uint64_t page = 1000; page < 1100; page++) EXPECT(!HoldsData(page) || vm.guest.IsPresent(page));
  ReadBy(vm.guest, 1);
}

/** Until then there is nothing but what is predicted or asked for. */
void RestWaits(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  const auto rest_from = FaultServer::Clock::now() + std::chrono::milliseconds(500);
  server->StartBackground({.predicted = {{.first = 60, .count = 40}}, .rest_from = rest_from});
  EXPECT(vm.guest.IsRight(2001));
  do {
    bool present = vm.guest.IsPresent(1001);
    EXPECT(!present || !HoldsData(1001) || FaultServer::Clock::now() >= rest_from);
  } while (FaultServer::Clock::now() < rest_from);
  vm.events.Await(ServerEvent::Kind::kComplete);
  ReadBy(vm.guest, 1);
  // Nobody waits for a server that waits.
  Machine other(source);
  auto waiting = Serve(source, other.served());
  waiting->StartBackground({.rest_from = FaultServer::Clock::now() + std::chrono::hours(1)});
  waiting.reset();
  EXPECT(!other.events.Has(ServerEvent::Kind::kComplete));
}

void RestIsUrgent(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  server->StartBackground({.rest_from = FaultServer::Clock::now() + std::chrono::hours(1)});
  ReadBy(vm.guest, 1);
  vm.events.Await(ServerEvent::Kind::kComplete);
}

void Registered(const Source& source) {
  Machine vm(source);
  const Userfaultfd own = vm.guest.Duplicate();
  const AddressRange all = vm.guest.Ranges().front();
  const AnonymousMemory elsewhere(2 * kPageBytes);
  const auto start = reinterpret_cast<uint64_t>(elsewhere.data());
  EXPECT(WaitsAt(own.get(), all, kPageBytes));
  EXPECT(!vm.guest.IsPresent(0) && !vm.guest.IsPresent(vm.guest.page_count() - 1));
  EXPECT(!WaitsAt(own.get(), {.start = start, .end = start + elsewhere.size()}, kPageBytes));
  EXPECT(!WaitsAt(own.get(), {.start = all.start, .end = all.end + kPageBytes}, kPageBytes));
  auto server = Serve(source, vm.served());
  vm.guest.Read(1);
  EXPECT(WaitsAt(own.get(), all, kPageBytes));
  server.reset();
  vm.guest.Unregister();
  EXPECT(!WaitsAt(own.get(), all, kPageBytes));
}

void TwoMachines(const Source& source) {
  Machine first(source), second(source);
  auto one = Serve(source, first.served());
  auto other = Serve(source, second.served());
  one->StartBackground({});
  std::thread reader([&] { ReadBy(second.guest, 2); });
  ReadBy(first.guest, 2);
  reader.join();
  first.events.Await(ServerEvent::Kind::kComplete);
}

/** Serves everything until damage is found; gives what is said of it. */
std::string DamageIn(const Source& source, Machine& vm, ServerEvent::Kind kind) {
  auto server = Serve(source, vm.served());
  server->StartBackground({});
  std::string text = vm.events.Await(kind);
  server.reset();
  EXPECT(!vm.events.Has(ServerEvent::Kind::kComplete));
  return text;
}

/** The directory's extent 2 is damaged. */
void Damaged(const Source& source) {
  Machine vm(source);
  auto image = source.Open();
  std::string text = DamageIn(source, vm, ServerEvent::Kind::kExtentDamaged);
  EXPECT(text.find("extent 2 of web/1 (") != text.npos);
  for (uint64_t page = 0; page < source.facts.page_count; page++) {
    PageEntry entry = image->EntryOf(page);
    if (entry.kind != PageKind::kData || entry.extent != 2) continue;
    EXPECT(vm.table.StateOf(page) == PageState::kFailed);
    EXPECT(!vm.guest.IsPresent(page));
  }
}

/** Two pages lie in the same place: one of them would be left out, and read as zero in the end. */
void SharedPlace(const Source& source) {
  Machine vm(source);
  std::string text = DamageIn(source, vm, ServerEvent::Kind::kIndexDamaged);
  EXPECT(text.find("pages 1 and 2 lie in the same place") != text.npos);
}

/** The file is cut off under the mapping: what cannot be read is damage, not a crash. */
void CutOff(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  FaultServer::Worker worker;
  // So that the index, which lies in the same file, is in memory.
  server->ServeAll(worker, source.facts.page_count - 49, 1);
  EXPECT(vm.guest.IsPresent(source.facts.page_count - 49));
  const std::string pack = source.directory + "/" + source.facts.extent_files.front().name;
  EXPECT(::truncate(pack.c_str(), 8192) == 0);
  server->ServeAll(worker, source.facts.page_count - 2, 1);
  std::string text = vm.events.Await(ServerEvent::Kind::kExtentDamaged);
  EXPECT(text.find("cannot be read") != text.npos);
  EXPECT(!vm.guest.IsPresent(source.facts.page_count - 2));
}

FaultServer::Options OptionsFor(std::vector<MemoryRegion> regions, Events& events) {
  return {.regions = std::move(regions),
          .demand_threads = 2,
          .background_threads = 2,
          .on_event = [&events](const ServerEvent& event) { events.Add(event); }};
}

/** A machine that gives pages back while others use them. What it has given back must read as zero. */
class Balloon {
 public:
  explicit Balloon(const Source& source)
      : guest_(source.facts.page_count, UFFD_FEATURE_EVENT_REMOVE),
        table_(PageTable::Create(source.facts.page_count)),
        removed_(source.facts.page_count),
        server_(std::make_unique<FaultServer>(
            source.Open(), table_, guest_.Duplicate(Userfaultfd::Pages::kMayGo),
            OptionsFor(
                {{.address = guest_.address(), .first_page = 0, .page_count = source.facts.page_count}},
                events_))) {}

  void Inflate(uint64_t seed, int ranges) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < ranges; i++) {
      uint64_t first = random() % removed_.size();
      uint64_t count = std::min(1 + random() % 64, removed_.size() - first);
      Check(::madvise(guest_.memory() + first * kPageBytes, count * kPageBytes, MADV_DONTNEED), "madvise");
      for (uint64_t page = first; page < first + count; page++) removed_[page] = true;
    }
  }

  void Touch(uint64_t seed, int touches) const {
    std::mt19937_64 random(seed);
    for (int i = 0; i < touches; i++) TouchPage(random() % removed_.size());
  }

  void TouchPage(uint64_t page) const {
    const bool was_removed = removed_[page];
    auto* words = reinterpret_cast<const volatile uint32_t*>(guest_.memory() + page * kPageBytes);
    for (size_t i = 0; i < kPageBytes / 4; i++) {
      uint32_t word = words[i];
      EXPECT(word == 0 || (!was_removed && word == WordOf(page, i)));
      // In the end, what was never removed is there. (It may be removed while we look.)
      if (word != WordOf(page, i) && !was_removed) EXPECT(removed_[page] || MayStillBeMarked(page));
    }
  }

  Guest guest_;
  PageTable table_;
  Events events_;
  std::vector<std::atomic<bool>> removed_;
  std::unique_ptr<FaultServer> server_;

 private:
  /** Between madvise and its note. */
  bool MayStillBeMarked(uint64_t page) const {
    const auto deadline = FaultServer::Clock::now() + kDeadline;
    while (!removed_[page] && FaultServer::Clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    return removed_[page];
  }
};

void RunAll(std::vector<std::function<void()>> works) {
  std::vector<std::thread> threads;
  for (auto& work : works) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
}

void Removal(const Source& source) {
  for (uint64_t round = 0; round < 20; round++) {
    Balloon vm(source);
    if (round % 4 != 0) vm.server_->StartBackground({});
    RunAll({[&] { vm.Inflate(round, 30); }, [&] { vm.Inflate(~round, 30); }, [&] { vm.Touch(1, 3000); },
            [&] { vm.Touch(2, 3000); }, [&] { vm.Touch(3, 3000); }});
    for (uint64_t page = 0; page < source.facts.page_count; page++) vm.TouchPage(page);
    if (round % 4 != 0) vm.events_.Await(ServerEvent::Kind::kComplete);
    EXPECT(!vm.events_.Has(ServerEvent::Kind::kFailed) && !vm.events_.Has(ServerEvent::Kind::kGone));
    EXPECT(vm.table_.counters().removed_pages > 0);
  }
}

/** Pages that go without an event: the process has not asked for them to be told. */
void SilentRemoval(const Source& source) {
  Machine vm(source);
  FaultServer server(
      source.Open(), vm.table, vm.guest.Duplicate(Userfaultfd::Pages::kMayGo),
      OptionsFor({{.address = vm.guest.address(), .first_page = 0, .page_count = vm.guest.page_count()}},
                 vm.events));
  ReadBy(vm.guest, 2);
  Check(::madvise(vm.guest.memory(), 64 * kPageBytes, MADV_DONTNEED), "madvise");
  for (size_t at = 0; at < 64 * kPageBytes; at += kPageBytes)
    EXPECT(static_cast<volatile uint8_t*>(vm.guest.memory())[at] == 0);
}

/** The memory is given back while it is read, and while pages are removed: nobody is left waiting. */
void HandBack(const Source& source) {
  for (uint64_t round = 0; round < 10; round++) {
    Balloon vm(source);
    vm.server_->StartBackground({});
    RunAll({[&] {
              vm.events_.Await(ServerEvent::Kind::kComplete);
              vm.server_->HandBack();
              vm.server_.reset();
            },
            [&] { vm.Inflate(round, 300); }, [&] { vm.Touch(1, 20000); }, [&] { vm.Touch(2, 20000); }});
    for (uint64_t page = 0; page < source.facts.page_count; page++) vm.TouchPage(page);
  }
}

/** Most of the memory in huge pages, the rest in small ones. */
void Huge(const Source& source) {
  constexpr uint64_t kHugeBytes = 2 << 20, kUnit = kHugeBytes / kPageBytes;
  const uint64_t huge_pages = source.facts.page_count / kUnit, first_small = huge_pages * kUnit;
  void* mapped = ::mmap(nullptr, huge_pages * kHugeBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap");
  Guest small(source.facts.page_count - first_small, UFFD_FEATURE_EVENT_REMOVE);
  small.Register(mapped, huge_pages * kHugeBytes);
  PageTable table = PageTable::Create(source.facts.page_count);
  Events events;
  FaultServer server(
      source.Open(), table, small.Duplicate(Userfaultfd::Pages::kMayGo),
      OptionsFor({{.address = reinterpret_cast<uint64_t>(mapped),
                   .first_page = 0,
                   .page_count = first_small,
                   .page_bytes = kHugeBytes},
                  {.address = small.address(), .first_page = first_small, .page_count = small.page_count()}},
                 events));
  auto word = [&](uint64_t page, size_t i) {
    auto* from =
        static_cast<uint8_t*>(page < first_small ? mapped : small.memory() - first_small * kPageBytes);
    return reinterpret_cast<const volatile uint32_t*>(from + page * kPageBytes)[i];
  };
  auto expect_image = [&](uint64_t first, uint64_t end) {
    for (uint64_t page = first; page < end; page++)
      for (size_t i = 0; i < kPageBytes / 4; i += 51) EXPECT(word(page, i) == WordOf(page, i));
  };
  // Once before anybody had it, once after.
  Check(::madvise(mapped, kHugeBytes, MADV_DONTNEED), "madvise");
  expect_image(kUnit, 2 * kUnit);
  Check(::madvise(static_cast<uint8_t*>(mapped) + kHugeBytes, kHugeBytes, MADV_DONTNEED), "madvise");
  RunAll({[&] { server.StartBackground({}); }, [&] { expect_image(2 * kUnit, source.facts.page_count); },
          [&] { expect_image(2 * kUnit, source.facts.page_count); }});
  for (uint64_t page = 0; page < 2 * kUnit; page++) EXPECT(word(page, page % 1024) == 0);
  events.Await(ServerEvent::Kind::kComplete);
  EXPECT(table.counters().removed_pages == 2 * kUnit);
}

/** A checkpoint whose source lets every extent wait that a guest page of `withheld` needs. */
class SlowImage {
 public:
  SlowImage(const Source& source, const std::vector<uint64_t>& withheld)
      : catalog_(std::make_shared<PageCatalog>(source.Indexes(), source.facts)),
        extents_(std::make_shared<SlowExtents>(std::make_shared<FileExtents>(catalog_, source.Packs()))),
        image_(std::make_shared<CheckpointImage>(catalog_, extents_)) {
    for (uint64_t page : withheld) extents_->Withhold(catalog_->EntryOf(page).extent);
  }

  void Deliver(uint64_t page) { extents_->Deliver(catalog_->EntryOf(page).extent); }
  /** Until the source has been asked for what it does not have, so often. */
  void AwaitRefusals(unsigned count) {
    while (extents_->refusals() < count) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }

  std::unique_ptr<FaultServer> Serve(Served vm) const {
    return std::make_unique<FaultServer>(
        image_, vm.table, vm.guest.Duplicate(),
        OptionsFor({{.address = vm.guest.address(), .first_page = 0, .page_count = vm.guest.page_count()}},
                   vm.events));
  }

 private:
  std::shared_ptr<PageCatalog> catalog_;
  std::shared_ptr<SlowExtents> extents_;
  std::shared_ptr<CheckpointImage> image_;
};

/** More threads wait for the source than the server has, and what it does have is served meanwhile. */
void Starved(const Source& source) {
  const std::vector<uint64_t> late = {101, 1003, 1501, 2001};
  Machine vm(source);
  SlowImage image(source, late);
  auto server = image.Serve(vm.served());
  std::vector<std::thread> guests;
  for (uint64_t page : late)
    for (int twice = 0; twice < 2; twice++)
      guests.emplace_back([&vm, page] { EXPECT(vm.guest.IsRight(page)); });
  vm.events.Await(ServerEvent::Kind::kStarving);
  while (vm.table.starvation().pages < late.size())
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  image.AwaitRefusals(20);
  for (uint64_t page = 200; page < 400; page++) EXPECT(vm.guest.IsRight(page));
  for (uint64_t page : late) EXPECT(!vm.guest.IsPresent(page));
  EXPECT(!vm.events.Has(ServerEvent::Kind::kFed));
  EXPECT(vm.table.starvation().nanoseconds > 0);
  for (uint64_t page : late) image.Deliver(page);
  for (std::thread& guest : guests) guest.join();
  vm.events.Await(ServerEvent::Kind::kFed);
  ReadBy(vm.guest, 2);
  server.reset();
  EXPECT(vm.table.starvation().pages == late.size());
  EXPECT(vm.table.fault_times().count() == vm.table.counters().demand_faults);
  EXPECT(vm.table.counters().demand_faults >= late.size());
  EXPECT(!vm.events.Has(ServerEvent::Kind::kFailed) && !vm.events.Has(ServerEvent::Kind::kExtentDamaged));
}

/** A page that starves is one fault of the trace, however often it is tried. */
void StarvedTrace(const Source& source) {
  Machine vm(source);
  SlowImage image(source, {1003});
  auto server = image.Serve(vm.served());
  std::thread guest([&] { EXPECT(vm.guest.IsRight(1003)); });
  image.AwaitRefusals(5);
  image.Deliver(1003);
  guest.join();
  EXPECT(server->trace().Faults().size() == 1);
  EXPECT(vm.table.counters().demand_pages == 1);
}

/** The background goes on without what is late, is not complete without it, and brings it without a fault. */
void StarvedBackground(const Source& source) {
  Machine vm(source);
  SlowImage image(source, {101, 1003});
  vm.table.Plan(100, 8, PageState::kQueued);
  vm.table.Plan(1000, 8, PageState::kWithheld);
  auto server = image.Serve(vm.served());
  server->StartBackground({.predicted = {{.first = 100, .count = 8}}, .near = {}, .likely = {}});
  for (uint64_t page = 0; page < source.facts.page_count; page++)
    while (HoldsData(page) && page / 64 != 101 / 64 && page / 64 != 1003 / 64 && !vm.guest.IsPresent(page))
      std::this_thread::sleep_for(std::chrono::microseconds(100));
  image.AwaitRefusals(10);
  EXPECT(!vm.guest.IsPresent(101) && !vm.guest.IsPresent(1003));
  EXPECT(!vm.events.Has(ServerEvent::Kind::kComplete) && !vm.events.Has(ServerEvent::Kind::kStarving));
  std::thread guest([&] { EXPECT(vm.guest.IsRight(1003)); });
  vm.events.Await(ServerEvent::Kind::kStarving);
  image.Deliver(101);
  image.Deliver(1003);
  guest.join();
  vm.events.Await(ServerEvent::Kind::kComplete);
  vm.events.Await(ServerEvent::Kind::kFed);
  for (uint64_t page = 0; page < source.facts.page_count; page++)
    EXPECT(!HoldsData(page) || vm.table.StateOf(page) == PageState::kInstalled);
  ReadBy(vm.guest, 2);
}

/** Faults wait while the background claims the same pages, and gives them back, again and again. */
void StarvedRace(const Source& source) {
  for (int round = 0; round < 10; round++) {
    std::vector<uint64_t> late;
    for (uint64_t page = 1; page < source.facts.page_count; page += 50)
      if (HoldsData(page) && page % 11 != 0) late.push_back(page);
    Machine vm(source);
    SlowImage image(source, late);
    auto server = image.Serve(vm.served());
    server->StartBackground({});
    std::thread deliverer([&] {
      for (uint64_t page : late) {
        image.AwaitRefusals(1);
        image.Deliver(page);
        std::this_thread::sleep_for(std::chrono::microseconds(200));
      }
    });
    ReadBy(vm.guest, 4);
    deliverer.join();
    vm.events.Await(ServerEvent::Kind::kComplete);
    server.reset();
    EXPECT(vm.table.fault_times().count() == vm.table.counters().demand_faults);
    EXPECT(!vm.events.Has(ServerEvent::Kind::kFailed));
  }
}

/** Faults and background on packs that are empty at first, and of which some extents come damaged once. */
void Arriving(const Source& source) {
  for (auto delay : {std::chrono::microseconds(0), std::chrono::microseconds(500)}) {
    Machine vm(source);
    LateFiller filler(source, delay);
    auto image = CheckpointImage::Open(
        {.catalog = filler.Indexes(), .extents = filler.Packs(), .hot_pack = {}, .arrival = filler.Files()},
        source.facts);
    PageCatalog catalog(source.Indexes(), source.facts);
    filler.DamageOnce(catalog.RecordOf(7));
    const ExtentRecord awaited = catalog.RecordOf(catalog.EntryOf(1003).extent);
    filler.Withhold(awaited);
    FaultServer server(
        image, vm.table, vm.guest.Duplicate(),
        OptionsFor({{.address = vm.guest.address(), .first_page = 0, .page_count = vm.guest.page_count()}},
                   vm.events));
    std::thread guest([&] { EXPECT(vm.guest.IsRight(1003)); });
    vm.events.Await(ServerEvent::Kind::kStarving);
    filler.Deliver(awaited);
    guest.join();
    vm.events.Await(ServerEvent::Kind::kFed);
    vm.table.Plan(1200, 100, PageState::kWithheld);
    server.StartBackground({.predicted = {{.first = 2000, .count = 300}},
                            .likely = {{.first = 128, .count = 64}},
                            .withheld_until = FaultServer::Clock::now()});
    ReadBy(vm.guest, 3);
    vm.events.Await(ServerEvent::Kind::kComplete);
    while (vm.events.CountOf(ServerEvent::Kind::kFed) < vm.events.CountOf(ServerEvent::Kind::kStarving))
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    for (uint64_t page = 0; page < source.facts.page_count; page++)
      EXPECT(vm.table.StateOf(page) == PageState::kInstalled);
    EXPECT(filler.again_count() >= 1);
    EXPECT(!vm.events.Has(ServerEvent::Kind::kFailed) && !vm.events.Has(ServerEvent::Kind::kExtentDamaged));
  }
}

/** A server ends while faults and its background starve; its successor serves them. */
void StarvedTakeOver(const Source& source) {
  Machine vm(source);
  SlowImage image(source, {101, 1003});
  auto server = image.Serve(vm.served());
  server->StartBackground({});
  std::thread guest([&] { EXPECT(vm.guest.IsRight(1003) && vm.guest.IsRight(101)); });
  vm.events.Await(ServerEvent::Kind::kStarving);
  image.AwaitRefusals(5);
  server.reset();
  EXPECT(!vm.events.Has(ServerEvent::Kind::kComplete) && !vm.events.Has(ServerEvent::Kind::kFed));
  vm.table.ForgetClaims();
  EXPECT(vm.table.StateOf(1003) == PageState::kAbsent);
  server = Serve(source, vm.served());
  server->WakeAll(vm.guest.Ranges());
  guest.join();
}

void Unregistered(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  vm.guest.Unregister();
  server->StartBackground({});
  vm.events.Await(ServerEvent::Kind::kGone);
}

std::vector<uint8_t> Request(uint64_t page, const std::string& block) {
  size_t length = 12 + (block.empty() ? 0 : 1 + block.size());
  std::vector<uint8_t> bytes = {0, static_cast<uint8_t>(block.empty() ? 4 : 3), 0,
                                static_cast<uint8_t>(length)};
  for (int shift = 56; shift >= 0; shift -= 8) bytes.push_back((page * kPageBytes) >> shift);
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(kPageBytes >> shift);
  if (!block.empty()) bytes.push_back(block.size());
  bytes.insert(bytes.end(), block.begin(), block.end());
  return bytes;
}

void Append(std::vector<uint8_t>& to, const std::vector<uint8_t>& bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

/** Messages in pieces of every length: requests of ours are served, all else is handed on, in order. */
void ReturnPathInPieces(const Source& source) {
  Machine vm(source);
  auto server = Serve(source, vm.served());
  const std::vector<uint8_t> pong = {0, 2, 0, 4, 0, 0, 0, 9};
  std::vector<uint8_t> bitmap = {0, 5, 0, 4, 3, 'r', 'o', 'm', 0, 0, 0, 0, 0, 0, 0, 2, 0xaa, 0x55};
  Append(bitmap, {1, 2, 3, 4, 5, 6, 7, 8});
  uint64_t page = 1;
  for (size_t piece = 1; piece <= 40; piece++) {
    int ends[2];
    Check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
    Fd qemu(ends[1]);
    std::vector<uint8_t> sent, expected, received;
    std::mutex mutex;
    std::condition_variable closed_changed;
    bool closed = false;
    uint64_t first = page;
    auto request = [&](const std::string& block) { Append(sent, Request(page++, block)); };
    for (auto* both : {&sent, &expected}) Append(*both, pong);
    request("pc.ram");
    request("");
    for (auto* both : {&sent, &expected}) Append(*both, bitmap);
    request("");
    uint64_t end = page;
    Append(sent, Request(3, "rom"));
    Append(sent, Request(4, ""));
    Append(expected, Request(3, "rom"));
    Append(expected, Request(4, "rom"));
    {
      ReturnPath path(
          Fd(ends[0]), vm.table,
          {.blocks = {{.name = "pc.ram", .first_page = 0, .page_count = 1 << 20, .is_direct = true},
                      {.name = "rom", .first_page = 1 << 20, .page_count = 16, .is_direct = false}},
           .on_messages =
               [&](std::span<const uint8_t> bytes) {
                 received.insert(received.end(), bytes.begin(), bytes.end());
               },
           .on_closed =
               [&](int) {
                 std::lock_guard lock(mutex);
                 closed = true;
                 closed_changed.notify_all();
               }});
      path.Attach(server.get());
      for (size_t at = 0; at < sent.size(); at += piece)
        Check(::write(qemu.get(), sent.data() + at, std::min(piece, sent.size() - at)), "write");
      qemu.Reset();
      std::unique_lock lock(mutex);
      EXPECT(closed_changed.wait_for(lock, kDeadline, [&] { return closed; }));
    }
    EXPECT(received == expected);
    for (uint64_t served = first; served < end; served++)
      EXPECT(vm.table.StateOf(served) == PageState::kInstalled && vm.guest.IsRight(served));
  }
}

void Histogram(const Source&) {
  PageTable table = PageTable::Create(1);
  for (uint64_t value = 1; value <= 10000; value++) table.fault_times().Record(value * 100);
  auto near = [](uint64_t value, uint64_t expected) {
    return value >= expected && value <= expected + expected / 15;
  };
  EXPECT(near(table.fault_times().Quantile(0.5), 500'000));
  EXPECT(near(table.fault_times().Quantile(0.99), 990'000));
  EXPECT(table.fault_times().max() == 1'000'000 && table.fault_times().Quantile(1) == 1'000'000);
}

}  // namespace
}  // namespace vmckpt

int main(int argc, char** argv) {
  using namespace vmckpt;
  return RunScenario(argc, argv,
                     {{"demand-only", DemandOnly},
                      {"background", Background},
                      {"predicted", Predicted},
                      {"take-over", TakeOver},
                      {"withheld", Withheld},
                      {"rest-waits", RestWaits},
                      {"rest-is-urgent", RestIsUrgent},
                      {"registered", Registered},
                      {"two-machines", TwoMachines},
                      {"damaged", Damaged},
                      {"shared-place", SharedPlace},
                      {"cut-off", CutOff},
                      {"starved", Starved},
                      {"starved-trace", StarvedTrace},
                      {"starved-background", StarvedBackground},
                      {"starved-race", StarvedRace},
                      {"arriving", Arriving},
                      {"starved-take-over", StarvedTakeOver},
                      {"unregistered", Unregistered},
                      {"return-path", ReturnPathInPieces},
                      {"histogram", Histogram},
                      {"removal", Removal},
                      {"silent-removal", SilentRemoval},
                      {"hand-back", HandBack},
                      {"huge", Huge}});
}
