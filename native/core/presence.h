// Which blocks of a pack that is still arriving are here: the file `pack-ID.present` beside it. Its fetcher
// writes it, and every user of the pack maps it. src/page-server/cache-layout.ts has the same numbers, and
// docs/remote.md specifies every byte.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/fd.h"
#include "core/shared_file.h"

namespace vmckpt {

class Presence {
 public:
  static constexpr size_t kHeaderBytes = 4096;
  static constexpr size_t kBlockBytes = 4096;
  /** In the header: how many ranges were fetched once more, and the offsets of the last ones, in a ring. */
  static constexpr size_t kRefetchCountAt = 64;
  static constexpr size_t kRefetchesAt = 128;
  static constexpr size_t kRefetchSlots = (kHeaderBytes - kRefetchesAt) / sizeof(uint64_t);

  /** Throws SystemError EINVAL when the file is no presence file. */
  explicit Presence(const Fd& file);

  /** Whether all blocks of the range are here. What lies behind the end of the pack counts as here. */
  bool Has(uint64_t offset, uint64_t bytes) const;

  uint32_t refetch_count() const { return file_.At<uint32_t>(kRefetchCountAt).load(); }

  /** Whether the range that begins at `offset` was fetched once more after the count was `since`. */
  bool WasRefetched(uint64_t offset, uint32_t since) const;

 private:
  SharedFile file_;
  uint64_t block_count_;
};

}  // namespace vmckpt
