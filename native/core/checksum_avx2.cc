// The library chooses its instructions when it is compiled: a file of its own for those that not every
// processor has.
#if defined(__x86_64__)

#pragma GCC target("avx2")
#include <immintrin.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR XXH_AVX2
/** Bytes that are asked for ahead: far enough for a page that no translation is cached for, which no
 * processor fetches by itself. */
#define XXH_PREFETCH_DIST 2048
#include <xxhash.h>

#include "core/checksum.h"

namespace vmckpt {

uint64_t internal::ChecksumAvx2(const void* bytes, size_t count) { return XXH3_64bits(bytes, count); }

}  // namespace vmckpt

#endif
