// A lock that is shared or exclusive, for std::shared_lock and std::lock_guard. An exclusive request goes
// first. With std::shared_mutex, a steady stream of sharers would keep it waiting forever.
#pragma once

#include <pthread.h>

namespace vmckpt {

class SharedGate {
 public:
  SharedGate() {
    pthread_rwlockattr_t attributes;
    ::pthread_rwlockattr_init(&attributes);
    ::pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    ::pthread_rwlock_init(&lock_, &attributes);
    ::pthread_rwlockattr_destroy(&attributes);
  }
  ~SharedGate() { ::pthread_rwlock_destroy(&lock_); }
  SharedGate(const SharedGate&) = delete;

  void lock() { ::pthread_rwlock_wrlock(&lock_); }
  void unlock() { ::pthread_rwlock_unlock(&lock_); }
  void lock_shared() { ::pthread_rwlock_rdlock(&lock_); }
  void unlock_shared() { ::pthread_rwlock_unlock(&lock_); }

 private:
  pthread_rwlock_t lock_;
};

}  // namespace vmckpt
