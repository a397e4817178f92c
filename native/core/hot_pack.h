// Copies of the extents of a working set, side by side in one file: from a cold disk they are read in one
// sweep. docs/working-set.md specifies the file. It is a hint: one that is damaged is not used, and of one
// that was made for an earlier generation those extents are used that this one still has.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/fd.h"
#include "core/mapped_file.h"
#include "core/page_catalog.h"

namespace vmckpt {

class HotPack {
 public:
  /** Null unless it is whole, and has an extent of this generation. */
  static std::unique_ptr<HotPack> Open(Fd file, const PageCatalog& catalog);

  bool Has(uint64_t extent) const { return EntryOf(extent) != nullptr; }

  /** At which offset the extent is stored in `stored_bytes`, not verified; nothing when it is not here. */
  std::optional<uint64_t> Find(uint64_t extent, uint32_t stored_bytes) const;

  const MappedFile& file() const { return file_; }

  /** Lets the kernel read those of these extents that are here. */
  void ReadAhead(std::span<const uint32_t> extents) const;

 private:
  struct Entry {
    uint32_t extent;
    uint32_t stored_bytes;
    uint64_t offset;
  };

  explicit HotPack(Fd file) : file_(std::move(file)) {}
  bool ReadTables(const PageCatalog& catalog);
  const Entry* EntryOf(uint64_t extent) const;

  MappedFile file_;
  /** Those of this generation, ascending by extent. */
  std::vector<Entry> entries_;
};

}  // namespace vmckpt
