// The numbers of checkpoint format 1, as far as they are read here: docs/format.md specifies every byte.
// test/unit/native/constants.test.ts holds them against src/checkpoint/format.ts.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmckpt {

constexpr size_t kMaxExtentPages = 64;
constexpr size_t kFileHeaderBytes = 4096;
constexpr size_t kIndexChunkBytes = 64 * 1024;
constexpr size_t kPageEntryBytes = 8;
constexpr size_t kExtentRecordBytes = 32;

enum class PageKind : uint8_t { kAbsent = 0, kZero = 1, kFill = 2, kData = 3 };

enum class Codec : uint8_t { kRaw = 0, kZstd = 1 };

}  // namespace vmckpt
