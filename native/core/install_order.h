// What to install, and in which order: the pages of an image, gathered into pieces that are read, and so
// installed, together.
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

  /** An extent, or a page outside of extents: of one repeated byte, or zero (kZero). */
  struct Piece {
    PageKind kind;
    /** Number of the extent or page. */
    uint32_t number;
    /** For an extent: where its pages are listed. */
    uint32_t first_slot;
  };

  enum class Zeros { kLeftOut, kIncluded };

  /**
   * Empty at first. Only pages in these regions are added, none of them on huge pages. `image` outlives it.
   */
  InstallOrder(CheckpointImage& image, std::span<const MemoryRegion> regions);

  /** Appends the pieces of `range` that it does not contain yet. Throws DamagedImage. */
  void Add(PageRange range, Zeros zeros);

  /** Appends all data that it does not contain yet, in file order: one sweep over the disk. */
  void AddRest();

  const std::vector<Piece>& pieces() const { return pieces_; }

  /** How many extents hold that many pages; at least one. */
  uint64_t PiecesOf(uint64_t page_count) const { return std::max<uint64_t>(1, page_count / extent_pages_); }

  /** The pages of an extent by slot; kNoPage for a slot whose page was superseded or not added. */
  std::span<const uint32_t> PagesOf(const Piece& piece) const {
    return {slots_.data() + piece.first_slot, extent_pages_};
  }

  /** The pages of any piece. */
  std::span<const uint32_t> AllPagesOf(const Piece& piece) const {
    return piece.kind == PageKind::kData ? PagesOf(piece) : std::span(&piece.number, 1);
  }

  /** Up to `count` pieces from `first` on, as many as there are. */
  std::span<const Piece> PiecesFrom(uint64_t first, uint64_t count) const {
    const uint64_t begin = std::min<uint64_t>(first, pieces_.size());
    return std::span(pieces_).subspan(begin, std::min<uint64_t>(count, pieces_.size() - begin));
  }

  /** Announces what the pieces need to its source; adjacent pieces in one request. */
  void ReadAhead(std::span<const Piece> pieces, Lane lane) const;

 private:
  void AddPage(uint64_t page, Zeros zeros);

  CheckpointImage& image_;
  const std::span<const MemoryRegion> regions_;
  const size_t extent_pages_;
  std::vector<Piece> pieces_;
  std::vector<uint32_t> slots_;
  /** Indexed by page. */
  std::vector<bool> is_added_;
  /** Indexed by ordinal of the extent. */
  std::vector<uint32_t> piece_of_;
};

}  // namespace vmckpt
