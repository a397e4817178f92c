// The fast fill, for src/native/memory-fill.ts.
#pragma once

#include <napi.h>

namespace vmckpt::binding {

void ExportMemoryFill(Napi::Object exports);

}  // namespace vmckpt::binding
