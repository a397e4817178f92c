#include "core/checksum.h"

#include <cinttypes>
#include <cstdio>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace vmckpt {

namespace {

#if defined(__x86_64__)
const bool kHasAvx2 = __builtin_cpu_supports("avx2");
#endif

}  // namespace

uint64_t Checksum(const void* bytes, size_t count) {
#if defined(__x86_64__)
  if (kHasAvx2) return internal::ChecksumAvx2(bytes, count);
#endif
  return XXH3_64bits(bytes, count);
}

Checksum128 WideChecksum(const void* bytes, size_t count) {
#if defined(__x86_64__)
  if (kHasAvx2) return internal::WideChecksumAvx2(bytes, count);
#endif
  const XXH128_hash_t hash = XXH3_128bits(bytes, count);
  return {.low = hash.low64, .high = hash.high64};
}

std::string ChecksumText(uint64_t checksum) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, checksum);
  return text;
}

}  // namespace vmckpt
