#include "core/checkpoint_image.h"

#include <algorithm>
#include <vector>

#include "core/file_extents.h"
#include "core/hot_pack.h"
#include "core/packed_extents.h"

namespace vmckpt {

std::shared_ptr<CheckpointImage> CheckpointImage::Open(ImageFiles files, const ImageFacts& facts) {
  auto catalog = std::make_shared<PageCatalog>(std::move(files.catalog), facts);
  std::shared_ptr<ExtentSource> extents = std::make_shared<FileExtents>(catalog, std::move(files.extents));
  if (files.arrival)
    extents = std::make_shared<ArrivingExtents>(catalog, std::move(*files.arrival), std::move(extents));
  if (files.hot_pack)
    if (auto pack = HotPack::Open(std::move(files.hot_pack), *catalog))
      extents = std::make_shared<PackedExtents>(catalog, std::move(pack), std::move(extents));
  return std::make_shared<CheckpointImage>(std::move(catalog), std::move(extents));
}

void CheckpointImage::ReadAhead(std::span<const PageRange> ranges) {
  std::vector<uint32_t> extents;
  for (auto [first, count] : ranges) {
    for (uint64_t page = first; page < first + count; page++) {
      PageEntry entry = EntryOf(page);
      if (entry.kind == PageKind::kData) extents.push_back(entry.extent);
    }
  }
  std::ranges::sort(extents);
  const auto [first, last] = std::ranges::unique(extents);
  extents.erase(first, last);
  extents_->ReadAhead(extents, Lane::kPredicted);
}

}  // namespace vmckpt
