// The part of a fault server that deals with a source that does not have yet what is asked for. The page is
// given back, so that the background may install it as well, and a thread of its own tries again until the
// source has it. Meanwhile all other faults are served.
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
  /** Ends the thread, which uses this object by way of the server to the last. The server's `stopping_` is
   * set, and its other threads have ended. */
  void Stop();

  /** `page` can be claimed again; the fault on it, of `since`, is served later. */
  void Add(uint64_t page, Clock::time_point since, const std::string& why);

 private:
  struct Fault {
    uint64_t page;
    Clock::time_point since;
  };

  void Run();
  /** Serves what waits, as far as the source has it; false when it had nothing. */
  bool TryAgain(Worker& worker, std::unique_lock<std::mutex>& lock);
  void CountTime();

  FaultServer& server_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Fault> waiting_;
  bool is_starving_ = false;
  /** Since then the time of the starvation has not been counted. */
  Clock::time_point counted_until_;
  /** Begins with the first fault that waits: local files need none. */
  std::thread thread_;
};

}  // namespace vmckpt
