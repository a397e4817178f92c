// Turns the stored bytes of an extent into its pages.
#pragma once

#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/page_catalog.h"

namespace vmckpt {

/** One thread's buffers for work on extents. */
class ExtentDecoder {
 public:
  ExtentDecoder() : context_(ZSTD_createDCtx(), ZSTD_freeDCtx) {
    if (!context_) throw std::bad_alloc();
  }

  ZSTD_DCtx* context() const { return context_.get(); }

  /** For the stored bytes of one extent. */
  uint8_t* RoomFor(size_t bytes) {
    if (stored_.size() < bytes) stored_.resize(bytes);
    return stored_.data();
  }

 private:
  std::vector<uint8_t> stored_;
  std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context_;
};

/** Where decoded bytes may be. */
enum class Access {
  /** In place if they are stored raw; valid for as long as the source lives. */
  kMapped,
  /** Always in the caller's buffer: for an extent whose neighbours in the file are not read. */
  kCopied,
};

/** Where an extent is stored. */
struct Place {
  const MappedFile& file;
  uint64_t offset;
  Access access;
};

/**
 * Verifies the stored bytes and decompresses them into `into`, which has room for the extent's pages. Sets
 * `decoded` to where the pages are. Returns what is wrong, or an empty string.
 */
std::string Decode(const ExtentRecord& record, const Place& place, ExtentDecoder& decoder, uint8_t* into,
                   const uint8_t*& decoded);

}  // namespace vmckpt
