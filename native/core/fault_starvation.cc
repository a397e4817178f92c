#include "core/fault_starvation.h"

#include <utility>

namespace vmckpt {

namespace {

/** After this time, what was asked for is asked for again. The destructor of the server may have to wait it.
 */
constexpr std::chrono::milliseconds kLongestWait{10};

}  // namespace

void FaultServer::Starvation::Stop() {
  {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

bool FaultServer::Starvation::Add(uint64_t page, Clock::time_point since, const SourceUnavailable& why) {
  std::lock_guard lock(mutex_);
  // With the lock: what arrives from here on is noticed by Run().
  if (server_.image_->arrivals() != why.arrivals()) return false;
  Note({.page = page, .since = since}, why.what());
  return true;
}

void FaultServer::Starvation::AddAwaited(uint64_t page, Clock::time_point since, const std::string& why) {
  std::lock_guard lock(mutex_);
  Note({.page = page, .since = since}, why);
}

void FaultServer::Starvation::Note(Fault fault, const std::string& why) {
  if (server_.stopping_) return;
  waiting_.push_back(fault);
  if (starving_.empty()) {
    counted_until_ = Clock::now();
    server_.Report(ServerEvent::Kind::kStarving, why);
  }
  starving_.insert(fault.page);
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  changed_.notify_all();
}

void FaultServer::Starvation::Run() {
  Worker worker;
  std::unique_lock lock(mutex_);
  auto must_stop = [this] { return server_.stopping_.load(); };
  while (!must_stop()) {
    changed_.wait(lock, [&] { return must_stop() || !starving_.empty(); });
    const uint32_t seen = server_.image_->arrivals();
    TryAgain(worker, lock);
    if (starving_.empty()) continue;
    lock.unlock();
    if (!must_stop()) server_.image_->AwaitArrival(seen, kLongestWait);
    lock.lock();
  }
}

void FaultServer::Starvation::TryAgain(Worker& worker, std::unique_lock<std::mutex>& lock) {
  const std::vector<Fault> tried = std::exchange(waiting_, {});
  lock.unlock();
  // What the source still does not have returns through Add().
  for (auto [page, since] : tried)
    if (!server_.stopping_) server_.Serve(worker, page, since);
  lock.lock();
  CountTime();
  const bool was_starving = !starving_.empty();
  std::erase_if(starving_,
                [this](uint64_t page) { return server_.IsSettled(page) || server_.HasFailed(page); });
  if (was_starving && starving_.empty()) server_.Report(ServerEvent::Kind::kFed, "");
}

void FaultServer::Starvation::CountTime() {
  const auto now = Clock::now();
  const auto elapsed = std::chrono::duration_cast<std::chrono::nanoseconds>(now - counted_until_);
  server_.table_.starvation().nanoseconds.fetch_add(elapsed.count(), std::memory_order_relaxed);
  counted_until_ = now;
}

}  // namespace vmckpt
