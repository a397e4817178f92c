// Tests of native/core's memory fill, for sanitizers: it writes into this process.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>

#include "core/anonymous_memory.h"
#include "core/file_extents.h"
#include "core/memory_fill.h"
#include "late_filler.h"
#include "scenario.h"
#include "slow_extents.h"

namespace vmckpt {
namespace {

/** Memory of a process that has not begun to run; ours will do. */
class FreshMemory {
 public:
  explicit FreshMemory(const Source& source)
      : source_(source), memory_(source.facts.page_count * kPageBytes) {}

  MemoryFill::Options FilledBy(unsigned threads) const {
    return {.pid = ::getpid(),
            .regions = {{.address = reinterpret_cast<uint64_t>(memory_.data()),
                         .first_page = 0,
                         .page_count = source_.facts.page_count}},
            .order = std::nullopt,
            .table = nullptr,
            .threads = threads,
            .budget = {}};
  }

  bool IsRight(uint64_t page) const {
    auto* words = reinterpret_cast<const uint32_t*>(memory_.data() + page * kPageBytes);
    for (size_t i = 0; i < kPageBytes / 4; i++)
      if (words[i] != WordOf(page, i)) return false;
    return true;
  }
  bool IsZero(uint64_t page) const {
    const uint8_t* bytes = memory_.data() + page * kPageBytes;
    return std::all_of(bytes, bytes + kPageBytes, [](uint8_t byte) { return byte == 0; });
  }

 private:
  const Source& source_;
  AnonymousMemory memory_;
};

void Fill(const Source& source) {
  uint64_t data_pages = 0;
  for (uint64_t page = 0; page < source.facts.page_count; page++) data_pages += HoldsData(page);
  for (unsigned threads : {1, 4}) {
    FreshMemory memory(source);
    MemoryFill fill(source.Open(), memory.FilledBy(threads));
    EXPECT(fill.Run());
    EXPECT(fill.page_count() == data_pages);
    for (uint64_t page = 0; page < source.facts.page_count; page++) EXPECT(memory.IsRight(page));
  }
}

/** Listed pages and no others, though they share extents; the table says which. */
void FillInOrder(const Source& source) {
  FreshMemory memory(source);
  PageTable table = PageTable::Create(source.facts.page_count);
  auto options = memory.FilledBy(3);
  options.order = {{.first = 2000, .count = 500}, {.first = 3, .count = 2}, {.first = 100, .count = 901}};
  options.table = &table;
  MemoryFill fill(source.Open(), options);
  EXPECT(fill.Run());
  uint64_t data_pages = 0;
  for (uint64_t page = 0; page < source.facts.page_count; page++) {
    bool is_listed =
        std::ranges::any_of(*options.order, [&](PageRange run) { return page - run.first < run.count; });
    bool is_installed = table.StateOf(page) == PageState::kInstalled;
    EXPECT(is_installed == is_listed);
    EXPECT(is_installed ? memory.IsRight(page) : memory.IsZero(page));
    data_pages += is_installed && HoldsData(page);
  }
  EXPECT(fill.page_count() == data_pages && table.counters().prefetched_pages == data_pages);
  EXPECT(table.counters().zero_pages == 500 + 2 + 901 - data_pages);
}

/** Stopped at any moment, the table says exactly which pages are there. */
void FillStopped(const Source& source) {
  for (int round = 0; round < 12; round++) {
    FreshMemory memory(source);
    PageTable table = PageTable::Create(source.facts.page_count);
    auto options = memory.FilledBy(2);
    options.table = &table;
    MemoryFill fill(source.Open(), options);
    std::thread other([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(round * 300));
      fill.Stop();
    });
    bool finished = fill.Run();
    other.join();
    bool all_there = true;
    for (uint64_t page = 0; page < source.facts.page_count; page++) {
      bool is_installed = table.StateOf(page) == PageState::kInstalled;
      EXPECT(is_installed ? memory.IsRight(page) : memory.IsZero(page));
      all_there &= is_installed || !HoldsData(page);
    }
    EXPECT(all_there == finished);
  }
}

/** The directory's extent 2 is damaged. */
void FillDamaged(const Source& source) {
  FreshMemory memory(source);
  MemoryFill fill(source.Open(), memory.FilledBy(2));
  try {
    fill.Run();
    EXPECT(false);
  } catch (const DamagedImage& damage) {
    EXPECT(std::string(damage.what()).find("extent 2 of web/1 (") != std::string::npos);
  }
  auto image = source.Open();
  for (uint64_t page = 0; page < source.facts.page_count; page++) {
    PageEntry entry = image->EntryOf(page);
    if (entry.kind == PageKind::kData && entry.extent == 2) EXPECT(memory.IsZero(page));
  }
}

/** It waits for what the source does not have, and can be stopped meanwhile. */
void FillStarved(const Source& source) {
  auto catalog = std::make_shared<PageCatalog>(source.Indexes(), source.facts);
  auto slow = std::make_shared<SlowExtents>(std::make_shared<FileExtents>(catalog, source.Packs()));
  auto image = std::make_shared<CheckpointImage>(catalog, slow);
  for (bool is_stopped : {false, true}) {
    FreshMemory memory(source);
    PageTable table = PageTable::Create(source.facts.page_count);
    slow->Withhold(5);
    auto options = memory.FilledBy(2);
    options.table = &table;
    MemoryFill fill(image, options);
    const unsigned refusals = slow->refusals() + 5;
    std::thread other([&] {
      const auto pause = [] { std::this_thread::sleep_for(std::chrono::microseconds(100)); };
      while (slow->refusals() < refusals) pause();
      while (!fill.waits_for_source()) pause();
      if (is_stopped)
        fill.Stop();
      else
        slow->Deliver(5);
    });
    EXPECT(fill.Run() == !is_stopped);
    other.join();
    EXPECT(!fill.waits_for_source());
    for (uint64_t page = 0; page < source.facts.page_count; page++)
      EXPECT(table.StateOf(page) == PageState::kInstalled || !is_stopped ? memory.IsRight(page)
                                                                         : memory.IsZero(page));
  }
}

/** Packs that are empty at first: all of it, and a few pages in the time for them. */
void FillArriving(const Source& source) {
  for (bool is_prefetch : {false, true}) {
    LateFiller filler(source, std::chrono::microseconds(200));
    auto image = CheckpointImage::Open(
        {.catalog = filler.Indexes(), .extents = filler.Packs(), .hot_pack = {}, .arrival = filler.Files()},
        source.facts);
    filler.DamageOnce(PageCatalog(source.Indexes(), source.facts).RecordOf(7));
    FreshMemory memory(source);
    auto options = memory.FilledBy(2);
    if (is_prefetch) options.order = {{.first = 1000, .count = 50}, {.first = 30, .count = 40}};
    EXPECT(MemoryFill(image, options).Run());
    for (uint64_t page = 0; page < source.facts.page_count; page++) {
      const bool is_meant = !is_prefetch || page - 1000 < 50 || page - 30 < 40;
      EXPECT(is_meant ? memory.IsRight(page) : memory.IsZero(page));
    }
    EXPECT(is_prefetch || filler.again_count() >= 1);
  }
}

/** The directory's extent 2 is damaged, but has a sound copy in the hot pack. */
void FillFromPack(const Source& source) {
  EXPECT(source.OpenPack()->Has(2));
  Fill(source);
}

/** Extent 2 is still used and damaged; of the extents of a newer pack, the hot pack has none. */
void FillFromInheritedPack(const Source& source) {
  EXPECT(source.facts.extent_files.size() == 2);
  PageCatalog catalog(source.Indexes(), source.facts);
  auto pack = source.OpenPack();
  EXPECT(pack->Has(2) && !pack->Has(3));
  for (uint64_t number = 0; number < source.facts.extent_files[1].extent_count; number++)
    EXPECT(!pack->Has(catalog.FirstExtentOf(1) + number));
  Fill(source);
  Source other = source;
  other.facts.extent_files[0].id = std::string(32, '0');
  EXPECT(other.OpenPack() == nullptr);
}

/** Whatever happens to the hot pack, pages come out right. */
void FillFromDamagedPack(const Source& source) {
  const std::string pack = source.directory + "/hot-pack";
  std::mt19937_64 random(11);
  const auto bytes = std::filesystem::file_size(pack);
  for (int round = 0; round < 100; round++) {
    std::fstream file(pack, std::ios::in | std::ios::out | std::ios::binary);
    // More often where a byte means more.
    file.seekp(random() % (round % 2 == 0 ? bytes : std::min<uint64_t>(bytes, 600)));
    file.put(static_cast<char>(random()));
    file.close();
    if (round % 10 == 9) std::filesystem::resize_file(pack, random() % bytes);
    auto image = source.Open();
    auto pack_now = source.OpenPack();
    ExtentDecoder decoder;
    std::vector<uint8_t> room(image->facts().extent_pages * kPageBytes);
    for (uint64_t page = 0; page < source.facts.page_count; page++) {
      PageEntry entry = image->EntryOf(page);
      if (entry.kind != PageKind::kData || !pack_now || !pack_now->Has(entry.extent)) continue;
      const uint8_t* extent = image->Read(entry.extent, decoder, room.data());
      auto* words = reinterpret_cast<const uint32_t*>(extent + entry.slot * kPageBytes);
      for (size_t i = 0; i < kPageBytes / 4; i++) EXPECT(words[i] == WordOf(page, i));
    }
  }
}

}  // namespace
}  // namespace vmckpt

int main(int argc, char** argv) {
  using namespace vmckpt;
  return RunScenario(argc, argv,
                     {{"whole", Fill},
                      {"in-order", FillInOrder},
                      {"stopped", FillStopped},
                      {"damaged", FillDamaged},
                      {"starved", FillStarved},
                      {"arriving", FillArriving},
                      {"packed", FillFromPack},
                      {"inherited-pack", FillFromInheritedPack},
                      {"damaged-pack", FillFromDamagedPack}});
}
