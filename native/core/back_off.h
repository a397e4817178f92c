// Increasing pauses, for conditions that no event announces.
#pragma once

#include <algorithm>
#include <chrono>
#include <utility>

namespace vmckpt {

class BackOff {
 public:
  std::chrono::microseconds Next() { return std::exchange(pause_, std::min(2 * pause_, kLongest)); }
  void Reset() { pause_ = kShortest; }

 private:
  static constexpr std::chrono::microseconds kShortest{200};
  static constexpr std::chrono::microseconds kLongest{50'000};

  std::chrono::microseconds pause_ = kShortest;
};

}  // namespace vmckpt
