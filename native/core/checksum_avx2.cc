// The library chooses its instructions when it is compiled, so instructions that not every processor has need
// a file of their own.
#if defined(__x86_64__)

#pragma GCC target("avx2")
#include <immintrin.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_AVX2
/**
 * How far ahead bytes are prefetched: enough to reach the next page, which no processor prefetches by itself.
 */
#define XXH_PREFETCH_DIST 2048
#include <xxhash.h>

#include "core/checksum.h"

namespace vmckpt {

uint64_t internal::ChecksumAvx2(const void* bytes, size_t count) { return XXH3_64bits(bytes, count); }

Checksum128 internal::WideChecksumAvx2(const void* bytes, size_t count) {
  const XXH128_hash_t hash = XXH3_128bits(bytes, count);
  return {.low = hash.low64, .high = hash.high64};
}

}  // namespace vmckpt

#endif
