// Serves the memory of a process that waits for missing pages (userfaultfd), from a checkpoint: demand faults
// first, the rest behind them. Every thread takes a page through the same steps: claim it in the page table,
// read and verify its extent, install it. Nothing is installed that was not verified; a page whose extent is
// damaged stays missing.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/anonymous_memory.h"
#include "core/checkpoint_image.h"
#include "core/extent_cache.h"
#include "core/fault_trace.h"
#include "core/install_order.h"
#include "core/memory_region.h"
#include "core/page_table.h"
#include "core/shared_gate.h"
#include "core/system_error.h"
#include "core/userfaultfd.h"

namespace vmckpt {

struct ServerEvent {
  enum class Kind {
    /** Every page that carries data is in place. */
    kComplete,
    /** A page cannot be had, because an extent or an index is damaged: `text` says which. */
    kExtentDamaged,
    kIndexDamaged,
    /** The process has ended, or has given up its registration, before all was in place. */
    kGone,
    /** A system call failed that should not. */
    kFailed,
    /** A page is asked for that the source does not have yet: `text` says why. All others are served. */
    kStarving,
    /** No fault waits for the source any more. */
    kFed,
  };
  Kind kind;
  std::string text;
};

class FaultServer {
 public:
  using Clock = std::chrono::steady_clock;

  /** Zero pages around a fault that are installed with it: for the price of one. */
  static constexpr uint64_t kZeroWindowPages = 32;
  /** Who asks for more than that beside the prediction has other plans, and is helped most by having
   * everything. */
  static constexpr uint64_t kPatienceMisses = 64;

  struct Options {
    std::vector<MemoryRegion> regions;
    unsigned demand_threads;
    unsigned background_threads;
    /** Called from the server's threads; must not wait for them. */
    std::function<void(const ServerEvent&)> on_event;
    /** Installs what is asked for and nothing beside it: what is in place is what was touched. */
    bool exactly = false;
  };

  /** Begins to serve faults at once. `table` outlives the server. */
  FaultServer(std::shared_ptr<CheckpointImage> image, PageTable& table, Userfaultfd userfaultfd,
              Options options);
  /** Ends all threads; faults under way are served. */
  ~FaultServer();
  FaultServer(const FaultServer&) = delete;

  /** One thread's room for work. */
  struct Worker {
    ExtentDecoder decoder;
    std::array<uint8_t, kPageBytes> page;
    /** For one extent that is stored raw; empty until it is needed. */
    std::shared_ptr<uint8_t[]> raw_extent;
    /** Empty until it is needed. */
    std::vector<uint8_t> huge_page;
  };

  /** Serves pages of one region as if they had faulted; for faults that reach us by another way than the
   * userfaultfd. */
  void ServeAll(Worker& worker, uint64_t first, uint64_t count);

  /** Lets every thread that waits for a page there try again: a dead process may have read its fault. */
  void WakeAll(std::span<const AddressRange> ranges);

  struct BackgroundPlan {
    /** These come first, zero pages among them, in this order. */
    std::vector<PageRange> predicted{};
    /** Then these. */
    std::vector<PageRange> near{};
    /** Then these, and everything else behind them: not before, unless much else is asked for. */
    std::vector<PageRange> likely{};
    Clock::time_point rest_from{};
    /** Withheld pages come last, and not before. */
    Clock::time_point withheld_until{};
  };

  /** Begins to install all data, what the plan does not name in the order of the file. Once only. */
  void StartBackground(BackgroundPlan plan);

  /** The demand faults so far, each page once. */
  const FaultTrace& trace() const { return trace_; }

  /**
   * Gives the memory back to its process, which then goes on by itself: what has not been installed reads as
   * zero. For when all data is in place. Throws SystemError.
   */
  void HandBack();

 private:
  class Background;
  class Starvation;

  /** Pages that follow each other in the VM, and their bytes in memory here; zeros where there are none. */
  struct Run {
    uint64_t page;
    const uint8_t* bytes;
    size_t page_count;
    Userfaultfd::Waiters waiters = Userfaultfd::Waiters::kWoken;
  };

  /** Gathers claimed pages into runs, and installs them. */
  class RunInstaller {
   public:
    explicit RunInstaller(FaultServer& server) : server_(server) {}
    void Add(uint64_t page, const uint8_t* bytes);
    void Flush();
    bool HoldsBytesOf(const uint8_t* from, size_t bytes) const {
      return run_.page_count > 0 && run_.bytes - from < static_cast<ptrdiff_t>(bytes) && run_.bytes >= from;
    }

   private:
    FaultServer& server_;
    Run run_{};
  };

  void DemandLoop();
  void Serve(Worker& worker, uint64_t page, Clock::time_point since);
  std::optional<uint64_t> NextFault();
  void ServeClaimed(Worker& worker, uint64_t page, PageState former, Clock::time_point since);
  void InstallDemanded(Worker& worker, uint64_t page, Clock::time_point since);
  void InstallNeighbours(uint64_t page, const PageEntry& entry, const uint8_t* extent);
  void InstallZeros(uint64_t page, Clock::time_point since);
  /** The extent's bytes, until the worker reads the next one. */
  ExtentCache::Buffer Read(Worker& worker, uint32_t extent);
  void Install(const Run& run);
  void Answer(Run run, Clock::time_point since);
  Userfaultfd::Outcome Put(const Run& run);
  Userfaultfd::Outcome Place(const Run& run);

  // fault_removal.cc
  bool ReadEvents();
  void NoteRemoval(AddressRange range);
  void InstallRemoved(uint64_t page, Clock::time_point since);
  Userfaultfd::Outcome PutUnlessRemoved(const Run& run);
  template <typename Attempt>
  Userfaultfd::Outcome BetweenEvents(Attempt attempt);

  // fault_huge.cc
  void InstallHuge(Worker& worker, uint64_t page, std::atomic<uint64_t>& counter);
  bool Gather(Worker& worker, uint64_t page, size_t page_count);

  void MarkInstalled(uint64_t page, size_t page_count);
  void GiveBack(uint64_t page, PageState state);
  bool IsSettled(uint64_t page) const;

  const MemoryRegion* RegionOf(uint64_t page) const { return vmckpt::RegionOf(options_.regions, page); }
  uint64_t AddressOf(uint64_t page) const;
  uint64_t PageAt(uint64_t address) const;

  void AwaitOther(uint64_t page, Clock::time_point since);
  void ResolveAwaited(uint64_t page, size_t page_count);
  void StarveAwaited(uint64_t page);
  void RecordFault(Clock::time_point since);
  void GiveWayToDemand();

  void Report(ServerEvent::Kind kind, const std::string& text);
  void Report(const DamagedImage& damage);
  void Report(const SystemError& error);
  /** Runs a part of a thread's work: no exception leaves a thread. False when there was one; it is reported.
   */
  template <typename Part>
  bool Guarded(Part part) {
    try {
      part();
      return true;
    } catch (const DamagedImage& damage) {
      Report(damage);
    } catch (const SystemError& error) {
      Report(error);
    } catch (const std::exception& error) {
      Report(ServerEvent::Kind::kFailed, error.what());
    }
    return false;
  }

  std::shared_ptr<CheckpointImage> image_;
  PageTable& table_;
  Userfaultfd userfaultfd_;
  Options options_;
  ExtentCache cache_;
  FaultTrace trace_;

  /** Faults that are being served right now; the background gives way to them. */
  std::atomic<int> demand_active_{0};
  std::atomic<bool> stopping_{false};
  /** Nothing can be installed any more. */
  std::atomic<bool> gone_{false};
  Fd stop_event_;

  /**
   * Where pages may go: held together by those who install pages, and alone by who reads events. So no page
   * is on its way while its removal is read, and after that everybody sees it in the table.
   */
  SharedGate gate_;
  /** Faults that were read by somebody who had no time for them; changed by who holds the gate alone. */
  std::deque<uint64_t> postponed_;
  /** Counts them. */
  Fd postponed_event_;
  /** What a removed huge page is filled with. */
  AnonymousMemory huge_zeros_;
  /** Faults in a row on huge pages that were there already. */
  std::atomic<unsigned> vain_faults_{0};

  /** Faults on pages that another thread is installing, for their times. */
  struct Awaited {
    uint64_t page;
    Clock::time_point since;
  };
  std::mutex awaited_mutex_;
  std::vector<Awaited> awaited_;
  std::atomic<size_t> awaited_count_{0};

  std::unique_ptr<Starvation> starvation_;
  std::unique_ptr<Background> background_;
  std::vector<std::thread> demand_threads_;
};

}  // namespace vmckpt
