// The part of a fault server that installs what nobody has asked for yet, extent by extent in the order of
// the file: one sequential sweep over the disk. Some threads of low priority, which give way to every fault.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>
#include <vector>

#include "core/extent_map.h"
#include "core/fault_server.h"

namespace vmckpt {

class FaultServer::Background {
 public:
  Background(FaultServer& server, std::vector<uint32_t> first, Clock::time_point withheld_until);
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
  void BuildMap();
  void SendAll();
  void SendExtents();
  void SendWithheld();
  enum class Withheld { kSpared, kSent };
  void SendExtent(Sender& sender, uint32_t extent, Withheld withheld);
  void SendFillPages();
  void SendHugePages();
  /** Extent number `position` in the order in which they are sent. */
  uint32_t ExtentAt(uint64_t position) const;
  void ReadAhead(uint64_t position);
  bool AllInstalled() const;
  bool HasData(const MemoryRegion& region, uint64_t first_page) const;
  bool MustStop() const { return server_.stopping_ || server_.gone_ || failed_; }
  /** Runs a part of the work; what it throws is reported and ends all of it. */
  template <typename Part>
  void Guarded(Part part);

  FaultServer& server_;
  std::vector<uint32_t> first_;
  const Clock::time_point withheld_until_;
  std::optional<ExtentMap> map_;
  /** The first page of every huge page that carries data. The map knows nothing of them. */
  std::vector<uint64_t> huge_pages_;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> failed_{false};
  std::thread leader_;
};

}  // namespace vmckpt
