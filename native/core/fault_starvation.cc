#include "core/fault_starvation.h"

#include <utility>

#include "core/back_off.h"

namespace vmckpt {

void FaultServer::Starvation::Stop() {
  {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void FaultServer::Starvation::Add(uint64_t page, Clock::time_point since, const std::string& why) {
  std::lock_guard lock(mutex_);
  if (server_.stopping_) return;
  waiting_.push_back({.page = page, .since = since});
  if (!is_starving_) {
    is_starving_ = true;
    counted_until_ = Clock::now();
    server_.Report(ServerEvent::Kind::kStarving, why);
  }
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  changed_.notify_all();
}

void FaultServer::Starvation::Run() {
  Worker worker;
  BackOff pause;
  std::unique_lock lock(mutex_);
  auto must_stop = [this] { return server_.stopping_.load(); };
  while (!must_stop()) {
    changed_.wait(lock, [&] { return must_stop() || !waiting_.empty(); });
    if (changed_.wait_for(lock, pause.Next(), must_stop)) return;
    if (TryAgain(worker, lock)) pause.Reset();
  }
}

bool FaultServer::Starvation::TryAgain(Worker& worker, std::unique_lock<std::mutex>& lock) {
  const std::vector<Fault> tried = std::exchange(waiting_, {});
  lock.unlock();
  // What the source still does not have returns through Add().
  for (auto [page, since] : tried)
    if (!server_.stopping_) server_.Serve(worker, page, since);
  lock.lock();
  CountTime();
  if (waiting_.empty()) {
    is_starving_ = false;
    server_.Report(ServerEvent::Kind::kFed, "");
  }
  return waiting_.size() < tried.size();
}

void FaultServer::Starvation::CountTime() {
  const auto now = Clock::now();
  const auto elapsed = std::chrono::duration_cast<std::chrono::nanoseconds>(now - counted_until_);
  server_.table_.starvation().nanoseconds.fetch_add(elapsed.count(), std::memory_order_relaxed);
  counted_until_ = now;
}

}  // namespace vmckpt
