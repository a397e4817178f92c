// The extents of a local generation: its file `pages`, mapped.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/extent_source.h"
#include "core/fd.h"
#include "core/mapped_file.h"
#include "core/page_catalog.h"

namespace vmckpt {

class FileExtents : public ExtentSource {
 public:
  FileExtents(std::shared_ptr<PageCatalog> catalog, Fd pages)
      : catalog_(std::move(catalog)), pages_(std::move(pages)) {}

  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) override;
  void ReadAhead(std::span<const uint32_t> extents) override;

 private:
  ExtentRecord RecordOf(uint64_t extent);

  std::shared_ptr<PageCatalog> catalog_;
  MappedFile pages_;
};

}  // namespace vmckpt
