#include "core/checksum.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace vmckpt {

uint64_t Checksum(const void* bytes, size_t count) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return internal::ChecksumAvx2(bytes, count);
#endif
  return XXH3_64bits(bytes, count);
}

}  // namespace vmckpt
