// The extents of a local generation: the files that hold them, mapped.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/extent_source.h"
#include "core/fd.h"
#include "core/mapped_file.h"
#include "core/page_catalog.h"

namespace vmckpt {

class FileExtents : public ExtentSource {
 public:
  /** `files` are those of the catalogue, in its order. */
  FileExtents(std::shared_ptr<PageCatalog> catalog, std::vector<Fd> files);

  const uint8_t* Read(uint64_t extent, ExtentDecoder& decoder, uint8_t* into, Access access) override;
  void ReadAhead(std::span<const uint32_t> extents, Lane lane) override;

 private:
  const MappedFile& FileOf(uint64_t extent) const { return *files_[catalog_->FileOf(extent)]; }
  ExtentRecord RecordOf(uint64_t extent);

  std::shared_ptr<PageCatalog> catalog_;
  std::vector<std::unique_ptr<MappedFile>> files_;
};

}  // namespace vmckpt
