// The catalogue of a generation: what each page is, in which extent it lies, how the extent is stored. Always
// local, and small beside the bytes that it describes. Safe to use from several threads.
//
// Index chunks are verified when they are first used. A checksum shows damage and not sense, so every number
// is checked against its bounds before it is used.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/anonymous_memory.h"
#include "core/fd.h"
#include "core/format.h"
#include "core/image_errors.h"

namespace vmckpt {

/** A file of extents, as the manifest tells it: a pack, or in format 1 the file `pages`. */
struct ExtentFileFacts {
  uint32_t place;
  uint64_t extent_count;
  /** In the file that has the extents' records. */
  uint64_t records_offset;
  /** Of the checksums of the records' chunks, in the same file. */
  uint64_t record_table_offset;
  uint64_t records_root;
  /** Of the chunks of the page index, in the same file; format 1 has none there. */
  uint64_t chunks_offset;
  uint64_t chunk_count;
  /** Of the file with the extents. */
  std::string name;
  /** Of its extents: 32 hexadecimal digits, the same wherever they are. */
  std::string id;
};

/** What the manifest says of the files. */
struct ImageFacts {
  unsigned format_version;
  uint64_t page_count;
  /** The most pages that an extent holds. */
  uint64_t extent_pages;
  uint64_t page_index_root;
  std::vector<ExtentFileFacts> extent_files;
  /** Names the generation in messages. */
  std::string label;

  /** In all files. */
  uint64_t ExtentCount() const;
};

struct PageEntry {
  PageKind kind;
  /** Of kData: the page's place in its extent. */
  uint8_t slot;
  /** Of kFill: the byte that it repeats. */
  uint8_t fill;
  uint32_t extent;
};

/** How an extent is stored. */
struct ExtentRecord {
  /** From the start of its file. */
  uint64_t offset;
  uint32_t stored_bytes;
  uint8_t page_count;
  Codec codec;
  /** Of the stored bytes. */
  uint64_t checksum;
};

/**
 * The entries of an index, in chunks. A chunk is read into memory and verified when it is first used, and
 * stays as it was verified.
 */
class IndexChunks {
 public:
  /** Where a chunk lies, and its checksum. */
  struct Place {
    /** -1: nowhere, it is all zeros. */
    int fd;
    uint64_t offset;
    uint64_t checksum;
    /** Names its file in messages. */
    std::string label;
  };
  struct Shape {
    std::string label;
    uint64_t entry_count;
    size_t entry_bytes;
    size_t chunk_bytes;

    uint64_t ChunkCount() const {
      const uint64_t per_chunk = chunk_bytes / entry_bytes;
      return (entry_count + per_chunk - 1) / per_chunk;
    }
  };

  IndexChunks(const Shape& shape, std::vector<Place> places);

  /** The entry's bytes. Throws DamagedImage. */
  const uint8_t* At(uint64_t entry);

  const std::string& label() const { return shape_.label; }

 private:
  void Load(uint64_t chunk);

  Shape shape_;
  std::vector<Place> places_;
  /** Of all chunks; the kernel gives memory only to those that are loaded. */
  AnonymousMemory chunks_;
  std::unique_ptr<std::atomic<bool>[]> loaded_;
  std::mutex loading_;
};

/** In format 2, the records of a file of extents lie in that file. */
struct CatalogFiles {
  /** With the checksums of the chunks of the page index. */
  Fd page_table;
  /** With the records of each file of extents. */
  std::vector<Fd> records;
};

class PageCatalog {
 public:
  /** Reads the tables of checksums. Throws DamagedImage. */
  PageCatalog(CatalogFiles files, const ImageFacts& facts);

  const ImageFacts& facts() const { return facts_; }

  /** Throws DamagedImage, as all of these do. */
  PageEntry EntryOf(uint64_t page);

  /** How many pages the extent holds. */
  size_t PagesOf(uint64_t extent);

  ExtentRecord RecordOf(uint64_t extent);

  static constexpr size_t kNoFile = SIZE_MAX;

  /** Of facts().extent_files, the one that holds the extent, or kNoFile. */
  size_t FileOf(uint64_t extent) const;

  /** The number of the first extent of a file; the others follow. */
  uint64_t FirstExtentOf(size_t file) const {
    return static_cast<uint64_t>(facts_.extent_files[file].place) << place_shift_;
  }

  /** Numbers the extents of all files from 0 on, without gaps. */
  uint64_t OrdinalOf(uint64_t extent) const;

  /** The extent's record makes no sense, though its checksum is right. */
  [[noreturn]] void NonsensicalRecord(uint64_t extent) const;

  /** The extent's stored bytes are not what was saved; `fault` says in which way. */
  [[noreturn]] void DamagedExtent(uint64_t extent, const std::string& fault);

 private:
  struct ExtentFile {
    uint64_t first_ordinal;
    std::unique_ptr<IndexChunks> records;
  };

  std::vector<IndexChunks::Place> PageChunks() const;
  std::vector<IndexChunks::Place> Format1PageChunks() const;
  std::unique_ptr<IndexChunks> RecordsOf(size_t file) const;
  uint64_t NumberOf(uint64_t extent) const { return extent & ((uint64_t{1} << place_shift_) - 1); }
  const uint8_t* RecordBytes(uint64_t extent);

  ImageFacts facts_;
  CatalogFiles files_;
  /** In format 1 there is but one place. */
  const unsigned place_shift_;
  const std::array<size_t, kPlaceCount> file_at_;
  std::vector<ExtentFile> extent_files_;
  IndexChunks page_index_;
};

}  // namespace vmckpt
