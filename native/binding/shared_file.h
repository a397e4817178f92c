// Memory that processes have in common, for JavaScript.
#pragma once

#include <napi.h>

namespace vmckpt::binding {

void ExportSharedFile(Napi::Object exports);

}  // namespace vmckpt::binding
