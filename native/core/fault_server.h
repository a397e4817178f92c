// Serves the memory of a process that waits for missing pages (userfaultfd), from a checkpoint: demand faults
// first, then the rest. Every thread handles a page in the same steps: claim it in the page table, read and
// verify its extent, install it. Nothing is installed unverified; a page whose extent is damaged stays
// missing.
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
    /** A page cannot be loaded, because an extent or an index is damaged: `text` names it. */
    kExtentDamaged,
    kIndexDamaged,
    /** The process has ended, or has given up its registration, before everything was in place. */
    kGone,
    /** A system call failed unexpectedly. */
    kFailed,
    /**
     * A page was requested that the source does not have yet: `text` gives the reason. All others are served.
     */
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

  /** Zero pages around a fault that are installed with it, at the cost of one. */
  static constexpr uint64_t kZeroWindowPages = 32;
  /**
   * A VM that requests more pages than this outside of the prediction behaves differently; it needs
   * everything soon.
   */
  static constexpr uint64_t kPatienceMisses = 64;

  struct Options {
    std::vector<MemoryRegion> regions;
    unsigned demand_threads;
    unsigned background_threads;
    /** Called from the server's threads. Must not wait for them. */
    std::function<void(const ServerEvent&)> on_event;
    /** Installs requested pages only, so that exactly the touched pages are in place. */
    bool exactly = false;
  };

  /** Starts to serve faults at once. `table` outlives the server. */
  FaultServer(std::shared_ptr<CheckpointImage> image, PageTable& table, Userfaultfd userfaultfd,
              Options options);
  /** Ends all threads. Faults that are being handled are served first. */
  ~FaultServer();
  FaultServer(const FaultServer&) = delete;

  /** One thread's buffers. */
  struct Worker {
    ExtentDecoder decoder;
    std::array<uint8_t, kPageBytes> page;
    /** For one raw extent; allocated on first use. */
    std::shared_ptr<uint8_t[]> raw_extent;
    /** Allocated on first use. */
    std::vector<uint8_t> huge_page;
  };

  /**
   * Serves pages of one region as if they had faulted, for requests that do not arrive through the
   * userfaultfd.
   */
  void ServeAll(Worker& worker, uint64_t first, uint64_t count);

  /**
   * Makes every thread that waits for a page there fault again: a dead process may have read its first fault.
   */
  void WakeAll(std::span<const AddressRange> ranges);

  struct BackgroundPlan {
    /** These come first, including zero pages, in this order. */
    std::vector<PageRange> predicted{};
    /** Then these. */
    std::vector<PageRange> near{};
    /**
     * Then these, followed by everything else; not before `rest_from`, unless many other pages are requested.
     */
    std::vector<PageRange> likely{};
    Clock::time_point rest_from{};
    /** Withheld pages come last, and not before this. */
    Clock::time_point withheld_until{};
  };

  /** Starts to install all data; what the plan does not name comes in file order. May be called once. */
  void StartBackground(BackgroundPlan plan);

  /** The demand faults so far, each page once. */
  const FaultTrace& trace() const { return trace_; }

  /**
   * Gives the memory back to its process, which then needs no server. Pages that were not installed read as
   * zero. To be called when all data is in place. Throws SystemError.
   */
  void HandBack();

 private:
  class Background;
  class Starvation;

  /** Adjacent pages of the VM, and their bytes in this process; null for zeros. */
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
  bool TryToServe(Worker& worker, uint64_t page, Clock::time_point since);
  std::optional<uint64_t> NextFault();
  bool ServeClaimed(Worker& worker, uint64_t page, PageState former, Clock::time_point since);
  void InstallDemanded(Worker& worker, uint64_t page, Clock::time_point since);
  void InstallNeighbours(uint64_t page, const PageEntry& entry, const uint8_t* extent);
  void InstallZeros(uint64_t page, Clock::time_point since);
  /** The extent's bytes; valid until the worker reads the next one. */
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
  void InstallHuge(Worker& worker, uint64_t page, Lane lane);
  bool Gather(Worker& worker, uint64_t page, Lane lane);

  void MarkInstalled(uint64_t page, size_t page_count);
  void GiveBack(uint64_t page, PageState state);
  bool IsSettled(uint64_t page) const;
  bool HasFailed(uint64_t page) const { return table_.StateOf(page) == PageState::kFailed; }

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
  /** Runs a part of a thread's work and reports any exception. False when there was one. */
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

  /** Faults that are being served right now. The background gives way to them. */
  std::atomic<int> demand_active_{0};
  std::atomic<bool> stopping_{false};
  /** Nothing can be installed any more. */
  std::atomic<bool> gone_{false};
  Fd stop_event_;

  /**
   * Protects against removals: shared by threads that install pages, exclusive for a thread that reads
   * events. So no page is being installed while its removal is read, and afterwards every thread sees the
   * removal in the table.
   */
  SharedGate gate_;
  /** Faults that a thread has read but not handled; changed while the gate is held exclusively. */
  std::deque<uint64_t> postponed_;
  /** Counts the postponed faults. */
  Fd postponed_event_;
  /** Zeros for removed huge pages. */
  AnonymousMemory huge_zeros_;
  /** Consecutive faults on huge pages that were already in place. */
  std::atomic<unsigned> vain_faults_{0};

  /** Faults on pages that another thread is installing, to record their times. */
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
