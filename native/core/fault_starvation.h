// The part of a fault server for a source that does not have a requested page yet. The page is given back, so
// that the background may install it as well, and a separate thread tries again until the source has it.
// Other faults are served in the meantime.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/fault_server.h"

namespace vmckpt {

class FaultServer::Starvation {
 public:
  explicit Starvation(FaultServer& server) : server_(server) {}
  /**
   * Ends the thread, which uses this object through the server. `stopping_` of the server is set, and its
   * other threads have ended.
   */
  void Stop();

  /** `page` can be claimed again. The fault on it, which arrived at `since`, is served later. */
  void Add(uint64_t page, Clock::time_point since, const std::string& why);

 private:
  struct Fault {
    uint64_t page;
    Clock::time_point since;
  };

  void Run();
  /** Serves the waiting faults, as far as the source has their pages. False when it had none. */
  bool TryAgain(Worker& worker, std::unique_lock<std::mutex>& lock);
  void CountTime();

  FaultServer& server_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Fault> waiting_;
  bool is_starving_ = false;
  /** Until then the time of the starvation has been counted. */
  Clock::time_point counted_until_;
  /** Started with the first waiting fault: local files need no thread. */
  std::thread thread_;
};

}  // namespace vmckpt
