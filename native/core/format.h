// The numbers of checkpoint formats 1 and 2, as far as they are read here: docs/format.md specifies every
// byte. test/unit/native/constants.test.ts holds them against src/checkpoint/format.ts.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vmckpt {

constexpr size_t kMaxExtentPages = 64;
constexpr size_t kFileHeaderBytes = 4096;
constexpr size_t kRecordChunkBytes = 64 * 1024;
constexpr size_t kPageChunkBytes = 16 * 1024;
constexpr size_t kFormat1PageChunkBytes = 64 * 1024;
/** For each chunk of the page index its checksum, and its number. */
constexpr size_t kPageChunkEntryBytes = 12;
/** The number of one that lies nowhere, because all its pages are absent. */
constexpr uint32_t kNoChunk = UINT32_MAX;
/** An extent's number, and a chunk's, is its pack's place in the upper bits, and its number in the pack. */
constexpr unsigned kPlaceShift = 24;
constexpr size_t kPlaceCount = 256;
constexpr size_t kPageEntryBytes = 8;
constexpr size_t kExtentRecordBytes = 32;

enum class PageKind : uint8_t { kAbsent = 0, kZero = 1, kFill = 2, kData = 3 };

enum class Codec : uint8_t { kRaw = 0, kZstd = 1 };

}  // namespace vmckpt
