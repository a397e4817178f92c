#include "core/checksum.h"

#include <cinttypes>
#include <cstdio>

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

std::string ChecksumText(uint64_t checksum) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016" PRIx64, checksum);
  return text;
}

}  // namespace vmckpt
