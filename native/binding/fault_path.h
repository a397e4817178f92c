// The classes of the fault path: CheckpointImage, PageTable, FaultServer, ReturnPath. What happens on their threads
// arrives in JavaScript as calls of the functions given to their constructors, until `stop()`.
#pragma once

#include <napi.h>

namespace vmckpt::binding {

void ExportFaultPath(Napi::Object exports);

}  // namespace vmckpt::binding
