#include "binding/constants.h"

#include "core/fault_server.h"
#include "core/fault_trace.h"
#include "core/format.h"
#include "core/page.h"
#include "core/presence.h"

namespace vmckpt::binding {

void ExportConstants(Napi::Object exports) {
  Napi::Object constants = Napi::Object::New(exports.Env());
  auto set = [&](const char* name, auto value) { constants.Set(name, static_cast<double>(value)); };
  set("pageBytes", kPageBytes);
  set("maxExtentPages", kMaxExtentPages);
  set("fileHeaderBytes", kFileHeaderBytes);
  set("recordChunkBytes", kRecordChunkBytes);
  set("pageChunkBytes", kPageChunkBytes);
  set("format1PageChunkBytes", kFormat1PageChunkBytes);
  set("pageChunkEntryBytes", kPageChunkEntryBytes);
  set("noChunk", kNoChunk);
  set("numbersPerPlace", 1 << kPlaceShift);
  set("placeCount", kPlaceCount);
  set("pageEntryBytes", kPageEntryBytes);
  set("extentRecordBytes", kExtentRecordBytes);
  set("codecRaw", Codec::kRaw);
  set("codecZstd", Codec::kZstd);
  set("kindAbsent", PageKind::kAbsent);
  set("kindZero", PageKind::kZero);
  set("kindFill", PageKind::kFill);
  set("kindData", PageKind::kData);
  set("zeroWindowPages", FaultServer::kZeroWindowPages);
  set("patienceMisses", FaultServer::kPatienceMisses);
  set("maxTraceFaults", FaultTrace::kMaxFaults);
  set("presenceHeaderBytes", Presence::kHeaderBytes);
  set("presenceBlockBytes", Presence::kBlockBytes);
  set("presenceRefetchCountAt", Presence::kRefetchCountAt);
  set("presenceRefetchesAt", Presence::kRefetchesAt);
  set("presenceRefetchSlots", Presence::kRefetchSlots);
  set("laneDemand", Lane::kDemand);
  set("lanePredicted", Lane::kPredicted);
  set("laneRest", Lane::kRest);
  exports.Set("constants", constants);
}

}  // namespace vmckpt::binding
