// What the programs for sanitizers share: a scenario of theirs, run against a real checkpoint that is made by
// test/unit/native/sanitized.test.ts, which also says what each scenario is about. Usage:
//   PROGRAM SCENARIO DIRECTORY PAGES EXTENTS EXTENT_PAGES PAGE_INDEX_ROOT EXTENT_INDEX_ROOT
#pragma once

#include <fcntl.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "core/checkpoint_image.h"
#include "core/hot_pack.h"
#include "core/system_error.h"

#define EXPECT(condition)                                                           \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      std::_Exit(1);                                                                \
    }                                                                               \
  } while (false)

namespace vmckpt {

struct Source {
  std::string directory;
  ImageFacts facts;

  Fd File(const char* name) const {
    return Fd(Check(::open((directory + "/" + name).c_str(), O_RDONLY | O_CLOEXEC), "open"));
  }

  IndexFiles Indexes() const {
    return {.page_index = File("page-index"), .extent_index = File("extent-index")};
  }

  /** Null where there is none, or none that is whole. */
  std::unique_ptr<HotPack> OpenPack() const {
    Fd file(::open((directory + "/hot-pack").c_str(), O_RDONLY | O_CLOEXEC));
    return file ? HotPack::Open(std::move(file), facts.extent_index_root) : nullptr;
  }

  std::shared_ptr<CheckpointImage> Open() const {
    return CheckpointImage::Open(
        {.indexes = Indexes(),
         .pages = File("pages"),
         .hot_pack = Fd(::open((directory + "/hot-pack").c_str(), O_RDONLY | O_CLOEXEC))},
        facts);
  }
};

/** Word `i` of page `page`, as the writer in sanitized.test.ts makes it. */
inline uint32_t WordOf(uint64_t page, size_t i) {
  if (page % 5 == 0) return 0;
  auto low = static_cast<uint8_t>(page);
  uint32_t repeated = low * 0x01010101u;
  if (page % 11 == 0) return repeated;
  return i < 256 ? static_cast<uint32_t>(page * 1024 + i) * 2654435761u : repeated;
}

/** The other pages read as zero. */
inline bool HoldsData(uint64_t page) { return WordOf(page, 1) != 0; }

inline int RunScenario(int argc, char** argv,
                       const std::map<std::string, void (*)(const Source&)>& scenarios) {
  auto scenario = argc == 8 ? scenarios.find(argv[1]) : scenarios.end();
  if (scenario == scenarios.end()) return 2;
  auto number = [&](int index, int base) { return std::strtoull(argv[index], nullptr, base); };
  try {
    scenario->second({.directory = argv[2],
                      .facts = {.page_count = number(3, 10),
                                .extent_count = number(4, 10),
                                .extent_pages = number(5, 10),
                                .page_index_root = number(6, 16),
                                .extent_index_root = number(7, 16),
                                .label = "web/1"}});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
    return 1;
  }
  return 0;
}

}  // namespace vmckpt
