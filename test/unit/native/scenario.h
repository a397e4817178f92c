// What the programs for sanitizers share: a scenario of theirs, run against a real checkpoint that is made by
// test/unit/native/sanitized.test.ts, which also says what each scenario is about. Usage:
//   PROGRAM SCENARIO DIRECTORY
// The file `facts` in the directory has what the manifest says.
#pragma once

#include <fcntl.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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

  CatalogFiles Indexes() const { return {.page_table = File("page-chunks"), .records = Packs()}; }

  std::vector<Fd> Packs() const {
    std::vector<Fd> packs;
    for (const ExtentFileFacts& pack : facts.extent_files) packs.push_back(File(pack.name.c_str()));
    return packs;
  }

  /** Null where there is none, or none that is whole. */
  std::unique_ptr<HotPack> OpenPack() const {
    Fd file(::open((directory + "/hot-pack").c_str(), O_RDONLY | O_CLOEXEC));
    return file ? HotPack::Open(std::move(file), PageCatalog(Indexes(), facts)) : nullptr;
  }

  std::shared_ptr<CheckpointImage> Open() const {
    return CheckpointImage::Open(
        {.catalog = Indexes(),
         .extents = Packs(),
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

/** What the file `facts` says. */
inline Source ReadSource(const std::string& directory) {
  std::ifstream file(directory + "/facts");
  Source source{};
  source.directory = directory;
  ImageFacts& facts = source.facts;
  facts.format_version = 2;
  facts.label = "web/1";
  file >> facts.page_count >> facts.extent_pages >> std::hex >> facts.page_index_root;
  for (ExtentFileFacts pack; file >> pack.name >> std::dec >> pack.place;) {
    file >> pack.extent_count >> pack.records_offset >> pack.record_table_offset >> std::hex >>
        pack.records_root >> std::dec >> pack.chunks_offset >> pack.chunk_count >> pack.id;
    facts.extent_files.push_back(pack);
  }
  return source;
}

inline int RunScenario(int argc, char** argv,
                       const std::map<std::string, void (*)(const Source&)>& scenarios) {
  auto scenario = argc == 3 ? scenarios.find(argv[1]) : scenarios.end();
  if (scenario == scenarios.end()) return 2;
  try {
    scenario->second(ReadSource(argv[2]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[1], error.what());
    return 1;
  }
  return 0;
}

}  // namespace vmckpt
