#include "core/install_order.h"

#include <algorithm>

namespace vmckpt {

namespace {

constexpr uint32_t kNoPiece = UINT32_MAX;

}  // namespace

InstallOrder::InstallOrder(CheckpointImage& image, std::span<const MemoryRegion> regions)
    : image_(image),
      regions_(regions),
      extent_pages_(image.facts().extent_pages),
      is_added_(image.facts().page_count),
      piece_of_(image.facts().ExtentCount(), kNoPiece) {}

void InstallOrder::Add(PageRange range, Zeros zeros) {
  for (const MemoryRegion& region : regions_) {
    if (region.is_huge()) continue;
    uint64_t first = std::max(range.first, region.first_page);
    uint64_t end = std::min(range.first + range.count, region.first_page + region.page_count);
    for (uint64_t page = first; page < end; page++) AddPage(page, zeros);
  }
}

void InstallOrder::AddRest() {
  const size_t begin = pieces_.size();
  for (const MemoryRegion& region : regions_)
    Add({.first = region.first_page, .count = region.page_count}, Zeros::kLeftOut);
  // Pages of one repeated byte need nothing from the file: they come last. Most extents already are in the
  // order of their pages.
  auto data = [](const Piece& piece) { return piece.kind == PageKind::kData; };
  const auto first = pieces_.begin() + begin;
  const auto end = std::ranges::stable_partition(first, pieces_.end(), data).begin();
  if (!std::ranges::is_sorted(first, end, {}, &Piece::number))
    std::ranges::sort(first, end, {}, &Piece::number);
}

void InstallOrder::AddPage(uint64_t page, Zeros zeros) {
  if (is_added_[page]) return;
  PageEntry entry = image_.EntryOf(page);
  const auto number = static_cast<uint32_t>(page);
  switch (entry.kind) {
    case PageKind::kData: {
      uint32_t& piece = piece_of_[image_.OrdinalOf(entry.extent)];
      if (piece == kNoPiece) {
        piece = pieces_.size();
        const auto first_slot = static_cast<uint32_t>(slots_.size());
        pieces_.push_back({.kind = PageKind::kData, .number = entry.extent, .first_slot = first_slot});
        slots_.resize(slots_.size() + extent_pages_, kNoPage);
      }
      uint32_t& slot = slots_[pieces_[piece].first_slot + entry.slot];
      if (slot != kNoPage)
        throw DamagedImage(DamagedImage::Part::kIndex, image_.facts().label + ": pages " +
                                                           std::to_string(slot) + " and " +
                                                           std::to_string(number) + " lie in the same place");
      slot = number;
      break;
    }
    case PageKind::kFill:
      pieces_.push_back({.kind = PageKind::kFill, .number = number, .first_slot = 0});
      break;
    default:
      if (zeros == Zeros::kLeftOut) return;
      pieces_.push_back({.kind = PageKind::kZero, .number = number, .first_slot = 0});
  }
  is_added_[page] = true;
}

void InstallOrder::ReadAhead(std::span<const Piece> pieces, Lane lane) const {
  auto follows = [&](size_t at) {
    return pieces[at].kind == PageKind::kData && pieces[at].number > pieces[at - 1].number;
  };
  std::vector<uint32_t> extents;
  for (size_t at = 0; at < pieces.size();) {
    const Piece& piece = pieces[at++];
    if (piece.kind != PageKind::kData) continue;
    extents.assign(1, piece.number);
    while (at < pieces.size() && follows(at)) extents.push_back(pieces[at++].number);
    image_.ReadAhead(extents, lane);
  }
}

}  // namespace vmckpt
