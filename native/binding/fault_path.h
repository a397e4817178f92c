// The classes of the fault path: PageTable, FaultServer, ReturnPath. Events on their threads arrive in
// JavaScript as calls of the functions given to their constructors, until `stop()`.
#pragma once

#include <napi.h>

#include <vector>

#include "core/memory_region.h"
#include "core/page_table.h"

namespace vmckpt::binding {

void ExportFaultPath(Napi::Object exports);

/** The content of a PageTable object, which keeps it alive. */
PageTable& TableOf(Napi::Value value);

/** From a BigUint64Array of (address, firstPage, pageCount)… */
std::vector<MemoryRegion> RegionsOf(Napi::Value value);

/** From a Uint32Array of (firstPage, pageCount)… */
std::vector<PageRange> PageRangesOf(Napi::Value value);

}  // namespace vmckpt::binding
