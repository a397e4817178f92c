// The numbers that both languages have, for test/unit/native/constants.test.ts.
#pragma once

#include <napi.h>

namespace vmckpt::binding {

void ExportConstants(Napi::Object exports);

}  // namespace vmckpt::binding
