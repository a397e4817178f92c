// WriteProtection, SoftDirty and reading pages, for JavaScript.
#pragma once

#include <napi.h>

namespace vmckpt::binding {

void ExportWriteTracking(Napi::Object exports);

}  // namespace vmckpt::binding
