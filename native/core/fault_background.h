// The part of a fault server that installs what nobody has asked for yet: what is predicted, then what lies
// where much is asked for, then the rest in the order of the file, one sequential sweep over the disk. Some
// threads of low priority, which give way to every fault.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
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
  /** Ends the threads; the server's `stopping_` is set. */
  ~Background();

 private:
  /** One thread's tools. */
  struct Sender {
    explicit Sender(FaultServer& server);
    ExtentDecoder decoder;
    std::vector<uint8_t> room;
    RunInstaller installer;
  };

  void Lead();
  void SendPredicted();
  void SendRest();
  /** All pieces, by all threads. */
  void Send(const InstallOrder& order, int niceness);
  void SendPieces(const InstallOrder& order);
  void SendLeftOver(const InstallOrder& order);
  bool MissesMuch() const;
  template <typename Condition>
  void WaitUntil(Clock::time_point instant, Condition or_else) const;
  enum class Withheld { kSpared, kSent };
  void SendPiece(Sender& sender, const InstallOrder& order, const InstallOrder::Piece& piece,
                 Withheld withheld);
  /** By slot: the state that a claimed page was in; nothing for the others. */
  using Claims = std::array<std::optional<PageState>, kMaxExtentPages>;
  bool Gather(Sender& sender, const InstallOrder::Piece& piece, std::span<const uint32_t> pages,
              const Claims& claims);
  void FindHugePages();
  void SendHugePages();
  bool AllInstalled(const InstallOrder& order) const;
  bool HasData(const MemoryRegion& region, uint64_t first_page) const;
  bool MustStop() const { return server_.stopping_ || server_.gone_ || failed_; }
  /** Runs a part of the work; what it throws is reported and ends all of it. */
  template <typename Part>
  void Guarded(Part part);

  FaultServer& server_;
  const BackgroundPlan plan_;
  /** The first page of every huge page that carries data. Orders leave them out. */
  std::vector<uint64_t> huge_pages_;
  /** Of the order that is being sent. */
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::thread leader_;
};

}  // namespace vmckpt
