// The part of a fault server that installs pages that are not requested yet: first predicted ones, then those
// in regions with many requests, then the rest in file order, as one sequential sweep over the disk. It has a
// few threads of low priority, which give way to every fault.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "core/fault_server.h"
#include "core/install_order.h"

namespace vmckpt {

class FaultServer::Background {
 public:
  Background(FaultServer& server, BackgroundPlan plan);
  /** Ends the threads. `stopping_` of the server is set. */
  ~Background();

 private:
  /** One thread's tools. */
  struct Sender {
    explicit Sender(FaultServer& server);
    ExtentDecoder decoder;
    std::vector<uint8_t> room;
    RunInstaller installer;
  };

  /** What all threads do at a time. */
  struct Work {
    const InstallOrder& order;
    Lane lane;
    bool withheld_too = false;
  };

  /** A piece that a source did not have when its turn came. */
  struct LatePiece {
    const Work* work;
    InstallOrder::Piece piece;
  };
  /** In the order of their turns. */
  class LatePieces {
   public:
    void Add(const LatePiece& piece);
    /** Takes all of them. */
    std::vector<LatePiece> Take();
    uint64_t count() const { return count_; }
    /** Whether so much time has passed since the last ones came, or this was true, that they may be lost. */
    bool AreOverdue();

   private:
    std::mutex mutex_;
    std::vector<LatePiece> pieces_;
    std::atomic<uint64_t> count_{0};
    Clock::time_point asked_at_{};
  };

  void Lead();
  void SendPredicted();
  void SendRest();
  /** All threads together send all pieces. */
  void Send(const Work& work);
  void SendPieces(const Work& work);
  void SendLeftOver(const Work& work);
  bool MissesMuch() const;
  /** Whether the rest may begin. */
  bool RestIsDue() const;
  template <typename Condition>
  void WaitUntil(Clock::time_point instant, Condition or_else) const;
  void SendPiece(Sender& sender, const Work& work, const InstallOrder::Piece& piece);
  bool TryToSend(Sender& sender, const Work& work, const InstallOrder::Piece& piece);
  enum class Patience { kEndless, kUntilRest };
  void SendLate(Sender& sender, uint64_t most, Patience patience = Patience::kEndless);
  void AnnounceAgain(std::span<const LatePiece> pieces) const;
  /** By slot: the former state of a claimed page; nothing for other pages. */
  using Claims = std::array<std::optional<PageState>, kMaxExtentPages>;
  bool Gather(Sender& sender, const InstallOrder::Piece& piece, std::span<const uint32_t> pages,
              const Claims& claims);
  /** Whether a page of it is still to be installed. */
  bool IsLeft(const InstallOrder& order, const InstallOrder::Piece& piece) const;
  void FindHugePages();
  void SendHugePages();
  bool AllInstalled(const InstallOrder& order) const;
  bool HasData(const MemoryRegion& region, uint64_t first_page) const;
  bool MustStop() const { return server_.stopping_ || server_.gone_ || failed_; }
  /** Runs a part of the work. An exception is reported and ends all of the work. */
  template <typename Part>
  void Guarded(Part part);

  FaultServer& server_;
  const BackgroundPlan plan_;
  /** The first page of every huge page that carries data. Orders do not contain them. */
  std::vector<uint64_t> huge_pages_;
  /** Position in the current order. */
  std::atomic<uint64_t> next_{0};
  LatePieces late_;
  /** They stay, because late pieces are of them. */
  std::deque<InstallOrder> orders_;
  std::deque<Work> works_;
  std::atomic<bool> failed_{false};
  std::thread leader_;
};

}  // namespace vmckpt
