// Sets of pages as runs.
#pragma once

#include <algorithm>
#include <vector>

#include "core/page.h"

namespace vmckpt {

using PageRuns = std::vector<PageRange>;

/** Behind all that is there, or joined to its end. */
inline void Append(PageRuns& runs, PageRange next) {
  if (!runs.empty() && next.first <= runs.back().first + runs.back().count)
    runs.back().count = std::max(runs.back().count, next.first + next.count - runs.back().first);
  else
    runs.push_back(next);
}

/** What is in one of the two, or in both. */
inline PageRuns United(const PageRuns& one, const PageRuns& other) {
  PageRuns all;
  for (auto a = one.begin(), b = other.begin(); a != one.end() || b != other.end();) {
    const bool takes_a = b == other.end() || (a != one.end() && a->first <= b->first);
    Append(all, takes_a ? *a++ : *b++);
  }
  return all;
}

}  // namespace vmckpt
