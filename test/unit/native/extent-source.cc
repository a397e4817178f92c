// What every ExtentSource has to pass, for sanitizers: one that is added joins SourcesOf(). In TypeScript it
// is test/contracts/extent-source.ts.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/arriving_extents.h"
#include "core/file_extents.h"
#include "core/packed_extents.h"
#include "core/page.h"
#include "late_filler.h"
#include "scenario.h"
#include "slow_extents.h"

namespace vmckpt {
namespace {

struct Subject {
  std::string name;
  std::shared_ptr<PageCatalog> catalog;
  std::shared_ptr<ExtentSource> extents;
  /** Of a source that can be without an extent. */
  std::function<void(uint64_t)> withhold = nullptr;
  std::function<void(uint64_t)> deliver = nullptr;
};

Subject Slow(const std::string& name, std::shared_ptr<PageCatalog> catalog,
             std::shared_ptr<ExtentSource> extents, std::shared_ptr<SlowExtents> slow) {
  return {.name = name,
          .catalog = std::move(catalog),
          .extents = std::move(extents),
          .withhold = [slow](uint64_t extent) { slow->Withhold(extent); },
          .deliver = [slow](uint64_t extent) { slow->Deliver(extent); }};
}

/** Nothing of its extents is here at first. */
Subject Arriving(const Source& source) {
  auto filler = std::make_shared<LateFiller>(source);
  auto catalog = std::make_shared<PageCatalog>(filler->Indexes(), source.facts);
  auto files = std::make_shared<FileExtents>(catalog, filler->Packs());
  auto extents = std::make_shared<ArrivingExtents>(catalog, filler->Files(), files);
  return {.name = "arriving",
          .catalog = catalog,
          .extents = std::move(extents),
          .withhold = [=](uint64_t extent) { filler->Withhold(catalog->RecordOf(extent)); },
          .deliver = [=](uint64_t extent) { filler->Deliver(catalog->RecordOf(extent)); }};
}

std::vector<Subject> SourcesOf(const Source& source) {
  auto catalog = std::make_shared<PageCatalog>(source.Indexes(), source.facts);
  auto files = std::make_shared<FileExtents>(catalog, source.Packs());
  auto pack = source.OpenPack();
  EXPECT(pack != nullptr && pack->Has(2));
  auto packed = std::make_shared<PackedExtents>(catalog, std::move(pack), files);
  auto slow = std::make_shared<SlowExtents>(files);
  auto packed_slow = std::make_shared<SlowExtents>(files);
  auto before_slow = std::make_shared<PackedExtents>(catalog, source.OpenPack(), packed_slow);
  return {{.name = "files", .catalog = catalog, .extents = files},
          {.name = "packed", .catalog = catalog, .extents = packed},
          Slow("slow", catalog, slow, slow),
          Slow("packed, slow", catalog, before_slow, packed_slow),
          Arriving(source)};
}

/** Pages of an extent, by slot. */
std::vector<std::vector<uint64_t>> PagesBySlot(const Subject& subject) {
  std::vector<std::vector<uint64_t>> pages(subject.catalog->facts().ExtentCount());
  for (uint64_t page = 0; page < subject.catalog->facts().page_count; page++) {
    PageEntry entry = subject.catalog->EntryOf(page);
    if (entry.kind != PageKind::kData) continue;
    auto& of_extent = pages[entry.extent];
    if (of_extent.size() <= entry.slot) of_extent.resize(entry.slot + 1, UINT64_MAX);
    of_extent[entry.slot] = page;
  }
  return pages;
}

class Reader {
 public:
  explicit Reader(const Subject& subject)
      : subject_(subject),
        pages_(PagesBySlot(subject)),
        room_(subject.catalog->facts().extent_pages * kPageBytes) {}

  /** Waits until the source has it. */
  const uint8_t* Read(uint64_t extent, Access access) {
    for (;;) {
      try {
        return subject_.extents->Read(extent, decoder_, room_.data(), access);
      } catch (const SourceUnavailable& why) {
        subject_.extents->AwaitArrival(why.arrivals(), std::chrono::milliseconds(10));
      }
    }
  }

  void ExpectRight(uint64_t extent, Access access) {
    const uint8_t* bytes = Read(extent, access);
    EXPECT(subject_.extents->Has(extent));
    EXPECT(access == Access::kMapped || bytes == room_.data() ||
           subject_.catalog->RecordOf(extent).codec == Codec::kRaw);
    if (access == Access::kCopied) bytes = room_.data();
    for (size_t slot = 0; slot < pages_[extent].size(); slot++) {
      const auto* words = reinterpret_cast<const uint32_t*>(bytes + slot * kPageBytes);
      for (size_t i = 0; i < kPageBytes / 4; i++) EXPECT(words[i] == WordOf(pages_[extent][slot], i));
    }
  }

  void ExpectAllRight(uint64_t seed, uint64_t except = UINT64_MAX) {
    std::vector<uint64_t> extents(pages_.size());
    std::iota(extents.begin(), extents.end(), 0);
    std::shuffle(extents.begin(), extents.end(), std::mt19937_64(seed));
    for (uint64_t extent : extents)
      if (extent != except) ExpectRight(extent, extent % 2 == seed % 2 ? Access::kMapped : Access::kCopied);
  }

  std::string ExpectDamage(uint64_t extent) {
    try {
      Read(extent, Access::kCopied);
    } catch (const DamagedImage& error) {
      return error.what();
    }
    Fail(extent);
  }

  void ExpectUnavailable(uint64_t extent) {
    EXPECT(!subject_.extents->Has(extent));
    try {
      subject_.extents->Read(extent, decoder_, room_.data(), Access::kCopied);
    } catch (const SourceUnavailable&) {
      return;
    }
    Fail(extent);
  }

 private:
  [[noreturn]] void Fail(uint64_t extent) const {
    std::fprintf(stderr, "%s: extent %lu was read\n", subject_.name.c_str(), extent);
    std::_Exit(1);
  }

  const Subject& subject_;
  std::vector<std::vector<uint64_t>> pages_;
  ExtentDecoder decoder_;
  std::vector<uint8_t> room_;
};

void EqualBytes(const Source& source) {
  for (const Subject& subject : SourcesOf(source)) {
    Reader reader(subject);
    reader.ExpectAllRight(1);
    reader.ExpectAllRight(2);
  }
}

void ExpectAllRightInThreads(const Subject& subject) {
  std::vector<std::jthread> threads;
  for (uint64_t seed = 0; seed < 4; seed++)
    threads.emplace_back([&subject, seed] { Reader(subject).ExpectAllRight(seed); });
}

void Concurrent(const Source& source) {
  for (const Subject& subject : SourcesOf(source)) ExpectAllRightInThreads(subject);
}

/** Of the extents around one that is damaged everywhere. */
void DamageIsNamed(const Source& source) {
  for (const Subject& subject : SourcesOf(source)) {
    Reader reader(subject);
    for (int time = 0; time < 2; time++) {
      std::string text = reader.ExpectDamage(3);
      EXPECT(text.find("extent 3 of web/1 (") != std::string::npos);
    }
    reader.ExpectAllRight(1, 3);
  }
}

void UnavailableIsTold(const Source& source) {
  for (const Subject& subject : SourcesOf(source)) {
    if (subject.withhold == nullptr) continue;
    Reader reader(subject);
    subject.withhold(3);
    for (int time = 0; time < 3; time++) reader.ExpectUnavailable(3);
    reader.ExpectAllRight(1, 3);
    reader.ExpectUnavailable(3);
    const uint32_t seen = subject.extents->arrivals();
    std::thread deliverer([&] { subject.deliver(3); });
    while (!subject.extents->Has(3)) subject.extents->AwaitArrival(seen, std::chrono::hours(1));
    deliverer.join();
    reader.ExpectRight(3, Access::kCopied);
    reader.ExpectRight(3, Access::kMapped);
  }
}

/** What has been asked for in advance is read all the same, whatever was asked for. */
void ReadAhead(const Source& source) {
  for (const Subject& subject : SourcesOf(source)) {
    std::vector<uint32_t> all(source.facts.ExtentCount());
    std::iota(all.begin(), all.end(), 0);
    subject.extents->ReadAhead({}, Lane::kRest);
    subject.extents->ReadAhead(std::span(all).subspan(2, 1), Lane::kDemand);
    subject.extents->ReadAhead(all, Lane::kPredicted);
    Reader(subject).ExpectAllRight(1);
  }
}

/** What comes damaged and is whole when it is fetched once more, is no damage. */
void FetchedOnceMore(const Source& source) {
  LateFiller filler(source);
  auto catalog = std::make_shared<PageCatalog>(filler.Indexes(), source.facts);
  auto files = std::make_shared<FileExtents>(catalog, filler.Packs());
  const Subject subject{.name = "arriving",
                        .catalog = catalog,
                        .extents = std::make_shared<ArrivingExtents>(catalog, filler.Files(), files)};
  for (uint64_t extent : {3, 7, 11}) {
    filler.DamageOnce(catalog->RecordOf(extent));
    Reader(subject).ExpectRight(extent, Access::kCopied);
  }
  const unsigned again_count = filler.again_count();
  EXPECT(again_count >= 3);
  ExpectAllRightInThreads(subject);
  EXPECT(filler.again_count() == again_count);
}

/** All that is announced comes by itself, for few requests. */
void Announced(const Source& source) {
  LateFiller filler(source);
  auto catalog = std::make_shared<PageCatalog>(filler.Indexes(), source.facts);
  auto files = std::make_shared<FileExtents>(catalog, filler.Packs());
  ArrivingExtents extents(catalog, filler.Files(), files);
  std::vector<uint32_t> all(source.facts.ExtentCount());
  std::iota(all.begin(), all.end(), 0);
  EXPECT(!extents.Has(all.back()));
  extents.ReadAhead(all, Lane::kRest);
  for (uint32_t extent : all)
    while (!extents.Has(extent)) extents.AwaitArrival(extents.arrivals(), std::chrono::milliseconds(10));
  EXPECT(filler.want_count() < all.size() / 4);
}

}  // namespace
}  // namespace vmckpt

int main(int argc, char** argv) {
  using namespace vmckpt;
  return RunScenario(argc, argv,
                     {{"equal-bytes", EqualBytes},
                      {"concurrent", Concurrent},
                      {"damaged", DamageIsNamed},
                      {"unavailable", UnavailableIsTold},
                      {"read-ahead", ReadAhead},
                      {"once-more", FetchedOnceMore},
                      {"announced", Announced}});
}
