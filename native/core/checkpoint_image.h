// The pages of a generation: what a page is, where it lies, its bytes verified and decompressed.
// docs/format.md specifies the files. Safe to use from several threads.
//
// Index chunks are verified when they are first used, extents whenever they are read. A checksum shows damage
// and not sense, so every number is checked against its bounds before it is used.
#pragma once

#include <zstd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/anonymous_memory.h"
#include "core/fd.h"
#include "core/hot_pack.h"
#include "core/mapped_file.h"

namespace vmckpt {

constexpr size_t kPageBytes = 4096;
constexpr size_t kMaxExtentPages = 64;

struct PageRange {
  uint64_t first;
  uint64_t count;
};

/** What the manifest says of the files. */
struct ImageFacts {
  uint64_t page_count;
  uint64_t extent_count;
  uint64_t extent_pages;
  uint64_t page_index_root;
  uint64_t extent_index_root;
  /** Names the generation in messages. */
  std::string label;
};

struct ImageFiles {
  Fd page_index;
  Fd extent_index;
  Fd pages;
  /** May be none. */
  Fd hot_pack;
};

/** Something in the files is not what was saved. */
class DamagedImage : public std::runtime_error {
 public:
  enum class Part { kIndex, kExtent };
  DamagedImage(Part part, const std::string& text) : std::runtime_error(text), part_(part) {}
  Part part() const { return part_; }

 private:
  Part part_;
};

enum class PageKind : uint8_t { kAbsent = 0, kZero = 1, kFill = 2, kData = 3 };

struct PageEntry {
  PageKind kind;
  /** Of kData: the page's place in its extent. */
  uint8_t slot;
  /** Of kFill: the byte that it repeats. */
  uint8_t fill;
  uint32_t extent;
};

/**
 * An index file: chunks of entries, and behind them the checksums of the chunks. A chunk is read into memory
 * and verified when it is first used, and stays as it was verified.
 */
class IndexFile {
 public:
  struct Shape {
    std::string label;
    uint64_t entry_count;
    size_t entry_bytes;
    uint64_t root;
  };

  /** Reads the table of checksums. Throws DamagedImage. */
  IndexFile(Fd file, const Shape& shape);

  /** The entry's bytes. Throws DamagedImage. */
  const uint8_t* At(uint64_t entry);

 private:
  void Load(uint64_t chunk);
  void ReadExactly(void* into, size_t bytes, uint64_t offset);
  [[noreturn]] void Damaged(const std::string& fault) const;

  Shape shape_;
  Fd file_;
  std::vector<uint64_t> checksums_;
  /** Of all chunks; the kernel gives memory only to those that are loaded. */
  AnonymousMemory chunks_;
  std::unique_ptr<std::atomic<bool>[]> loaded_;
  std::mutex loading_;
};

/** Room for one thread's work on extents. */
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

class CheckpointImage {
 public:
  CheckpointImage(ImageFiles files, const ImageFacts& facts);

  const ImageFacts& facts() const { return facts_; }

  /** Throws DamagedImage, as all of these do. */
  PageEntry EntryOf(uint64_t page);

  /** How many pages the extent holds. */
  size_t PagesOf(uint64_t extent);

  bool IsRaw(uint64_t extent);

  /**
   * The extent's verified bytes: decompressed into `into` (room for facts().extent_pages pages), or in place
   * where they are stored raw.
   */
  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into) {
    return Read(extent, decoder, into, Access::kMapped);
  }

  /** The same, always into `into`: for an extent by itself, of a part of the file that is not read otherwise.
   */
  void ReadAlone(uint64_t extent, ExtentDecoder& decoder, uint8_t* into) {
    (void)Read(extent, decoder, into, Access::kCopied);
  }

  /** Whether the extent's bytes lie in the hot pack as well. */
  bool IsPacked(uint64_t extent) const { return hot_pack_ != nullptr && hot_pack_->Has(extent); }

  /** Lets the kernel read the stored bytes of `count` extents from `first` on. */
  void ReadAhead(uint64_t first, uint64_t count);

  /** The same for the hot pack and the extents of these pages; may wait for the disk. */
  void ReadAhead(std::span<const PageRange> pages);

 private:
  struct Record {
    uint64_t offset;
    uint32_t stored_bytes;
    uint8_t page_count;
    uint8_t codec;
    uint64_t checksum;
  };
  /** How stored bytes are come by. */
  enum class Access { kMapped, kCopied };
  struct Place {
    const MappedFile& file;
    uint64_t offset;
    Access access;
  };
  Record RecordOf(uint64_t extent);
  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access);
  /** What is wrong with the stored bytes; empty when they were decoded, to `result`. */
  std::string Decode(const Record& record, const Place& place, ExtentDecoder& decoder, uint8_t* into,
                     const uint8_t*& result);
  [[noreturn]] void DamagedExtent(uint64_t extent, const Record& record, const std::string& fault) const;

  ImageFacts facts_;
  IndexFile page_index_;
  IndexFile extent_index_;
  MappedFile pages_;
  std::unique_ptr<HotPack> hot_pack_;
};

}  // namespace vmckpt
