// What is to be put in place, and in which order: the pages of an image gathered into pieces that are read,
// and so installed, together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/checkpoint_image.h"
#include "core/memory_region.h"

namespace vmckpt {

class InstallOrder {
 public:
  static constexpr uint32_t kNoPage = UINT32_MAX;

  /** An extent, or one page that lies in none: of one repeated byte, or zero (kZero). */
  struct Piece {
    PageKind kind;
    /** Of the extent or the page. */
    uint32_t number;
    /** Of an extent: where its pages are noted. */
    uint32_t first_slot;
  };

  enum class Zeros { kLeftOut, kIncluded };

  /** Empty. Of `image`, which outlives it, only pages in these regions are ever added, and none on huge
   * pages. */
  InstallOrder(CheckpointImage& image, std::span<const MemoryRegion> regions);

  /** Appends the pieces of `range` that are not there yet. Throws DamagedImage. */
  void Add(PageRange range, Zeros zeros);

  /** Appends all data that is not there yet, in the order of the file: one sweep over the disk. */
  void AddRest();

  const std::vector<Piece>& pieces() const { return pieces_; }

  /** How many extents hold as many pages as that; at least one. */
  uint64_t PiecesOf(uint64_t page_count) const { return std::max<uint64_t>(1, page_count / extent_pages_); }

  /** The pages of an extent by slot; kNoPage where a slot's page was superseded, or was not added. */
  std::span<const uint32_t> PagesOf(const Piece& piece) const {
    return {slots_.data() + piece.first_slot, extent_pages_};
  }

  /** The pages of any piece. */
  std::span<const uint32_t> AllPagesOf(const Piece& piece) const {
    return piece.kind == PageKind::kData ? PagesOf(piece) : std::span(&piece.number, 1);
  }

  /** Lets the kernel read what `count` pieces from `first` on need, those that follow each other in one go.
   */
  void ReadAhead(uint64_t first, uint64_t count) const;

 private:
  void AddPage(uint64_t page, Zeros zeros);

  CheckpointImage& image_;
  const std::span<const MemoryRegion> regions_;
  const size_t extent_pages_;
  std::vector<Piece> pieces_;
  std::vector<uint32_t> slots_;
  /** By page. */
  std::vector<bool> is_added_;
  /** By extent. */
  std::vector<uint32_t> piece_of_;
};

}  // namespace vmckpt
