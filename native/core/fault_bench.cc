#include "core/fault_bench.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "core/anonymous_memory.h"
#include "core/fault_server.h"
#include "core/install_order.h"
#include "core/page_table.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kTouches = 2000;
/** How many times all memory is installed, by the server and by bare calls, in turns. */
constexpr size_t kBulkPasses = 3;
/** The same as in the server's background. */
constexpr size_t kRunPages = 32;

/** Memory that waits for its pages, and the server for it, if any. */
class Subject {
 public:
  Subject(const CheckpointImage& image, uint64_t page_count)
      : memory_(page_count * kPageBytes),
        table_(PageTable::Create(image.facts().page_count)),
        regions_{{.address = reinterpret_cast<uint64_t>(memory_.data()),
                  .first_page = 0,
                  .page_count = page_count}},
        bare_(Register()) {}

  void Serve(std::shared_ptr<CheckpointImage> image, unsigned background_threads) {
    server_.emplace(std::move(image), table_, Userfaultfd(Fd(Check(::dup(bare_.get()), "dup"))),
                    FaultServer::Options{.regions = regions_,
                                         .demand_threads = 2,
                                         .background_threads = background_threads,
                                         .on_event = [this](const ServerEvent& event) { Note(event); }});
  }

  uint8_t Touch(uint64_t page) const {
    return *const_cast<volatile uint8_t*>(memory_.data() + page * kPageBytes);
  }

  FaultServer& server() { return *server_; }
  Userfaultfd& userfaultfd() { return bare_; }
  PageTable& table() { return table_; }
  const std::vector<MemoryRegion>& regions() const { return regions_; }

  void AwaitEnd() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return has_ended_; });
    if (!failure_.empty()) throw SystemError(EIO, "bench");
  }

 private:
  Fd Register() {
    long fd = ::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    // Without the right to handle faults in the kernel, faults in user mode are enough.
    if (fd == -1) fd = ::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    Fd userfaultfd(static_cast<int>(Check(fd, "userfaultfd")));
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    Check(::ioctl(userfaultfd.get(), UFFDIO_API, &api), "UFFDIO_API");
    uffdio_register range{
        .range = {.start = reinterpret_cast<uint64_t>(memory_.data()), .len = memory_.size()},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
        .ioctls = 0};
    Check(::ioctl(userfaultfd.get(), UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
    return userfaultfd;
  }

  void Note(const ServerEvent& event) {
    std::lock_guard lock(mutex_);
    has_ended_ = true;
    if (event.kind != ServerEvent::Kind::kComplete) failure_ = event.text;
    changed_.notify_all();
  }

  AnonymousMemory memory_;
  PageTable table_;
  std::vector<MemoryRegion> regions_;
  Userfaultfd bare_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool has_ended_ = false;
  std::string failure_;
  std::optional<FaultServer> server_;
};

/** One page of each extent, in random order. */
std::vector<uint64_t> PagesToTouch(const InstallOrder& order, uint64_t seed) {
  std::vector<uint64_t> pages;
  for (const InstallOrder::Piece& piece : order.pieces())
    if (piece.kind == PageKind::kData)
      if (uint32_t page = order.PagesOf(piece).front(); page != InstallOrder::kNoPage) pages.push_back(page);
  std::shuffle(pages.begin(), pages.end(), std::mt19937_64(seed));
  pages.resize(std::min(pages.size(), kTouches));
  return pages;
}

uint64_t NanosecondsSince(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count();
}

uint64_t MedianOf(std::vector<uint64_t> values) {
  const auto middle = values.begin() + values.size() / 2;
  std::ranges::nth_element(values, middle);
  return middle == values.end() ? 0 : *middle;
}

class Bench {
 public:
  Bench(std::shared_ptr<CheckpointImage> image, uint64_t page_count, uint64_t seed)
      : image_(std::move(image)),
        page_count_(std::min(page_count, image_->facts().page_count)),
        seed_(seed) {}

  FaultBenchResult Run() {
    Idle();
    BareFaults();
    Loaded();
    std::vector<uint64_t> bulk_ns;
    std::vector<uint64_t> bare_ns;
    for (size_t pass = 0; pass < kBulkPasses; pass++) {
      bulk_ns.push_back(Bulk());
      bare_ns.push_back(Bare());
    }
    result_.bulk_ns = MedianOf(bulk_ns);
    result_.bare_ns = MedianOf(bare_ns);
    return result_;
  }

 private:
  InstallOrder OrderOf(const Subject& subject) {
    InstallOrder order(*image_, subject.regions());
    order.AddRest();
    return order;
  }

  void Idle() {
    Subject subject(*image_, page_count_);
    subject.Serve(image_, 1);
    for (uint64_t page : PagesToTouch(OrderOf(subject), seed_)) subject.Touch(page);
    const LatencyHistogram& times = subject.table().fault_times();
    result_.idle_p50_ns = times.Quantile(0.5);
    result_.idle_p99_ns = times.Quantile(0.99);
    result_.idle_count = times.count();
  }

  void BareFaults() {
    Subject subject(*image_, page_count_);
    std::vector<uint64_t> pages = PagesToTouch(OrderOf(subject), seed_);
    std::vector<uint64_t> times;
    const std::vector<uint8_t> bytes(kPageBytes);
    std::jthread server([&] {
      while (times.size() < pages.size()) {
        pollfd entry{.fd = subject.userfaultfd().get(), .events = POLLIN, .revents = 0};
        (void)::poll(&entry, 1, -1);
        auto event = subject.userfaultfd().ReadEvent();
        if (!event) continue;
        const auto begin = Clock::now();
        subject.userfaultfd().Copy(event->range.start, bytes.data(), kPageBytes, kPageBytes,
                                   Userfaultfd::Waiters::kLeft);
        times.push_back(NanosecondsSince(begin));
        subject.userfaultfd().Wake(event->range.start, kPageBytes);
      }
    });
    for (uint64_t page : pages) subject.Touch(page);
    server.join();
    result_.bare_fault_p50_ns = MedianOf(times);
  }

  void Loaded() {
    Subject subject(*image_, page_count_);
    subject.Serve(image_, 2);
    auto pages = PagesToTouch(OrderOf(subject), seed_ + 1);
    subject.server().StartBackground({});
    for (uint64_t page : pages) subject.Touch(page);
    subject.AwaitEnd();
    const LatencyHistogram& times = subject.table().fault_times();
    result_.loaded_p99_ns = times.Quantile(0.99);
    result_.loaded_count = times.count();
  }

  uint64_t Bulk() {
    Subject subject(*image_, page_count_);
    subject.Serve(image_, 1);
    const auto begin = Clock::now();
    subject.server().StartBackground({});
    subject.AwaitEnd();
    const uint64_t took = NanosecondsSince(begin);
    result_.bulk_bytes = subject.table().counters().background_pages * kPageBytes;
    return took;
  }

  /** 0 for compressed extents. */
  uint64_t Bare() {
    Subject subject(*image_, page_count_);
    struct Copy {
      uint64_t to;
      const uint8_t* from;
      size_t page_count;
    };
    std::vector<Copy> copies;
    InstallOrder order = OrderOf(subject);
    ExtentDecoder decoder;
    std::vector<uint8_t> room(image_->facts().extent_pages * kPageBytes);
    for (const InstallOrder::Piece& piece : order.pieces()) {
      if (piece.kind == PageKind::kFill) {
        const uint64_t to = subject.regions().front().address + piece.number * kPageBytes;
        copies.push_back({.to = to, .from = room.data(), .page_count = 1});
        continue;
      }
      const uint8_t* bytes = image_->Read(piece.number, decoder, room.data());
      if (bytes == room.data()) return 0;
      auto pages = order.PagesOf(piece);
      for (size_t slot = 0; slot < pages.size(); slot++) {
        if (pages[slot] == InstallOrder::kNoPage) continue;
        const uint64_t to = subject.regions().front().address + pages[slot] * kPageBytes;
        const uint8_t* from = bytes + slot * kPageBytes;
        bool follows = !copies.empty() && copies.back().page_count < kRunPages &&
                       to == copies.back().to + copies.back().page_count * kPageBytes &&
                       from == copies.back().from + copies.back().page_count * kPageBytes;
        if (follows)
          copies.back().page_count++;
        else
          copies.push_back({.to = to, .from = from, .page_count = 1});
      }
    }
    const auto begin = Clock::now();
    for (const Copy& copy : copies)
      subject.userfaultfd().Copy(copy.to, copy.from, copy.page_count * kPageBytes, kPageBytes);
    return NanosecondsSince(begin);
  }

  std::shared_ptr<CheckpointImage> image_;
  const uint64_t page_count_;
  const uint64_t seed_;
  FaultBenchResult result_{};
};

}  // namespace

FaultBenchResult MeasureFaults(const std::shared_ptr<CheckpointImage>& image, uint64_t page_count,
                               uint64_t seed) {
  return Bench(image, page_count, seed).Run();
}

}  // namespace vmckpt
