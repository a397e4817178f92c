// Copies of the extents of a working set, side by side in one file: from a cold disk they are read in one
// sweep. docs/working-set.md specifies the file. It is a hint: one that is damaged, or of another generation,
// is not used.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/fd.h"
#include "core/mapped_file.h"

namespace vmckpt {

class HotPack {
 public:
  /** Null unless it is whole, and tied to this. */
  static std::unique_ptr<HotPack> Open(Fd file, uint64_t tie);

  bool Has(uint64_t extent) const { return EntryOf(extent) != nullptr; }

  /** At which offset the extent is stored in `stored_bytes`, not verified; nothing when it is not here. */
  std::optional<uint64_t> Find(uint64_t extent, uint32_t stored_bytes) const;

  const MappedFile& file() const { return file_; }

  /** Lets the kernel read all of it. */
  void ReadAhead() const;

 private:
  struct Entry {
    uint32_t extent;
    uint32_t stored_bytes;
    uint64_t offset;
  };

  explicit HotPack(Fd file) : file_(std::move(file)) {}
  bool ReadTable(uint64_t tie);
  const Entry* EntryOf(uint64_t extent) const;

  MappedFile file_;
  /** Ascending by extent. */
  std::vector<Entry> entries_;
};

}  // namespace vmckpt
