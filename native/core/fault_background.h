// The part of a fault server that installs pages that are not requested yet: first predicted ones, then those
// in regions with many requests, then the rest in file order, as one sequential sweep over the disk. It has a
// few threads of low priority, which give way to every fault.
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

  void Lead();
  void SendPredicted();
  void SendRest();
  /** All threads together send all pieces. */
  void Send(const InstallOrder& order, int niceness);
  void SendPieces(const InstallOrder& order);
  void SendLeftOver(const InstallOrder& order);
  bool MissesMuch() const;
  template <typename Condition>
  void WaitUntil(Clock::time_point instant, Condition or_else) const;
  enum class Withheld { kSpared, kSent };
  void SendPiece(Sender& sender, const InstallOrder& order, const InstallOrder::Piece& piece,
                 Withheld withheld);
  /** By slot: the former state of a claimed page; nothing for other pages. */
  using Claims = std::array<std::optional<PageState>, kMaxExtentPages>;
  bool Gather(Sender& sender, const InstallOrder::Piece& piece, std::span<const uint32_t> pages,
              const Claims& claims);
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
  std::atomic<bool> failed_{false};
  std::thread leader_;
};

}  // namespace vmckpt
