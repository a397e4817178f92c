// The pages of a generation: what a page is, and its bytes, verified and decompressed. A catalogue, and the
// source of what it describes. Safe to use from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/arriving_extents.h"
#include "core/extent_source.h"
#include "core/fd.h"
#include "core/page.h"
#include "core/page_catalog.h"

namespace vmckpt {

/** A generation on this host, which may still be arriving. */
struct ImageFiles {
  CatalogFiles catalog;
  /** In the order of the facts. */
  std::vector<Fd> extents;
  /** May be none. */
  Fd hot_pack;
  /** Of one that is still arriving. */
  std::optional<ArrivalFiles> arrival{};
};

class CheckpointImage {
 public:
  CheckpointImage(std::shared_ptr<PageCatalog> catalog, std::shared_ptr<ExtentSource> extents)
      : catalog_(std::move(catalog)), extents_(std::move(extents)) {}

  /** Throws DamagedImage; SystemError where a file cannot be mapped. */
  static std::shared_ptr<CheckpointImage> Open(ImageFiles files, const ImageFacts& facts);

  const ImageFacts& facts() const { return catalog_->facts(); }

  /** Throws DamagedImage, as all of these do. */
  PageEntry EntryOf(uint64_t page) { return catalog_->EntryOf(page); }

  /** How many pages the extent holds. */
  size_t PagesOf(uint64_t extent) { return catalog_->PagesOf(extent); }

  /** Numbers the extents from 0 on, without gaps. */
  uint64_t OrdinalOf(uint64_t extent) const { return catalog_->OrdinalOf(extent); }

  bool IsRaw(uint64_t extent) { return catalog_->RecordOf(extent).codec == Codec::kRaw; }

  /**
   * The extent's verified bytes: decompressed into `into` (room for facts().extent_pages pages), or in place
   * where they are stored raw. Throws SourceUnavailable, too.
   */
  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into) {
    return extents_->Read(extent, decoder, into, Access::kMapped);
  }

  /** The same, always into `into`: for an extent by itself, of a part of the file that is not read otherwise.
   */
  void ReadAlone(uint64_t extent, ExtentDecoder& decoder, uint8_t* into) {
    (void)extents_->Read(extent, decoder, into, Access::kCopied);
  }

  /** Says that these extents will be read soon; ascending. May wait for the disk. */
  void ReadAhead(std::span<const uint32_t> extents, Lane lane) { extents_->ReadAhead(extents, lane); }

  /** Whether the extent is here, and so Read() will most likely not throw SourceUnavailable. */
  bool Has(uint64_t extent) { return extents_->Has(extent); }

  /** Changes whenever something has arrived that was demanded. */
  uint32_t arrivals() const { return extents_->arrivals(); }

  /** Waits until `arrivals()` is not `seen` any more, at most `longest`. */
  void AwaitArrival(uint32_t seen, std::chrono::microseconds longest) {
    extents_->AwaitArrival(seen, longest);
  }

  /** The same for the extents of these pages, which are predicted. */
  void ReadAhead(std::span<const PageRange> pages);

 private:
  std::shared_ptr<PageCatalog> catalog_;
  std::shared_ptr<ExtentSource> extents_;
};

}  // namespace vmckpt
