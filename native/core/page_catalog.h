// The catalogue of a generation: what each page is, in which extent it lies, how the extent is stored. Always
// local, and small beside the bytes that it describes. Safe to use from several threads.
//
// Index chunks are verified when they are first used. A checksum shows damage and not sense, so every number
// is checked against its bounds before it is used.
#pragma once

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

/** What the manifest says of the files. */
struct ImageFacts {
  uint64_t page_count;
  uint64_t extent_count;
  /** The most pages that an extent holds. */
  uint64_t extent_pages;
  uint64_t page_index_root;
  uint64_t extent_index_root;
  /** Names the generation in messages. */
  std::string label;
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
  /** From the start of the file `pages`. */
  uint64_t offset;
  uint32_t stored_bytes;
  uint8_t page_count;
  Codec codec;
  /** Of the stored bytes. */
  uint64_t checksum;
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

struct IndexFiles {
  Fd page_index;
  Fd extent_index;
};

class PageCatalog {
 public:
  PageCatalog(IndexFiles files, const ImageFacts& facts);

  const ImageFacts& facts() const { return facts_; }

  /** Throws DamagedImage, as all of these do. */
  PageEntry EntryOf(uint64_t page);

  /** How many pages the extent holds. */
  size_t PagesOf(uint64_t extent);

  ExtentRecord RecordOf(uint64_t extent);

  /** The extent's record makes no sense, though its checksum is right. */
  [[noreturn]] void NonsensicalRecord(uint64_t extent) const;

  /** The extent's stored bytes are not what was saved; `fault` says in which way. */
  [[noreturn]] void DamagedExtent(uint64_t extent, const std::string& fault);

 private:
  ImageFacts facts_;
  IndexFile page_index_;
  IndexFile extent_index_;
};

}  // namespace vmckpt
