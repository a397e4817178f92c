// The part of a fault server for a source that does not have a requested page yet. The page is given back, so
// that the background may install it as well, and a separate thread tries again whenever something has
// arrived at the source. Other faults are served in the meantime.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>
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

  /**
   * `page` can be claimed again. The fault on it, which arrived at `since`, is served later. False, and
   * nothing is noted, when something has arrived at the source since it was without the page.
   */
  bool Add(uint64_t page, Clock::time_point since, const SourceUnavailable& why);

  /** The same for a fault that another thread was to serve: it is noted in any case. */
  void AddAwaited(uint64_t page, Clock::time_point since, const std::string& why);

 private:
  struct Fault {
    uint64_t page;
    Clock::time_point since;
  };

  void Note(Fault fault, const std::string& why);
  void Run();
  /** Serves the waiting faults, as far as the source has their pages. */
  void TryAgain(Worker& worker, std::unique_lock<std::mutex>& lock);
  void CountTime();

  FaultServer& server_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Fault> waiting_;
  /** Every page that has starved and that no thread has installed yet: here, or another one has claimed it.
   */
  std::set<uint64_t> starving_;
  /** Until then the time of the starvation has been counted. */
  Clock::time_point counted_until_;
  /** Started with the first waiting fault: local files need no thread. */
  std::thread thread_;
};

}  // namespace vmckpt
