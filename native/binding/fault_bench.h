// Measures the fault path, for src/native/fault-bench.ts.
#pragma once

#include <napi.h>

namespace vmckpt::binding {

void ExportFaultBench(Napi::Object exports);

}  // namespace vmckpt::binding
