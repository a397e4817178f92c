// The addon's table of methods. Their only caller, src/native/index.ts, has checked types and ranges, so
// arguments are used as they come. State is per environment, because the addon also loads in worker threads.
#include <napi.h>

#include <cstring>

#include "binding/background.h"
#include "binding/checkpoint_image.h"
#include "binding/constants.h"
#include "binding/errors.h"
#include "binding/fault_bench.h"
#include "binding/fault_path.h"
#include "binding/memory_fill.h"
#include "binding/options.h"
#include "binding/receive_fds.h"
#include "binding/shared_file.h"
#include "binding/write_tracking.h"
#include "core/checksum.h"
#include "core/file_range.h"
#include "core/page.h"
#include "core/pidfd.h"
#include "core/pipe.h"
#include "core/process_memory.h"
#include "core/unix_socket.h"
#include "core/userfaultfd.h"
#include "core/userfaultfd_rescue.h"

namespace vmckpt::binding {

namespace {

int IntAt(const Napi::CallbackInfo& info, size_t index) {
  return info[index].As<Napi::Number>().Int32Value();
}

int64_t Int64At(const Napi::CallbackInfo& info, size_t index) {
  return info[index].As<Napi::Number>().Int64Value();
}

Napi::Value PeerCredentials(const Napi::CallbackInfo& info) {
  ucred peer = vmckpt::PeerCredentials(IntAt(info, 0));
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("pid", Napi::Number::New(info.Env(), peer.pid));
  result.Set("uid", Napi::Number::New(info.Env(), peer.uid));
  result.Set("gid", Napi::Number::New(info.Env(), peer.gid));
  return result;
}

Napi::Value ConnectUnix(const Napi::CallbackInfo& info) {
  Fd socket = vmckpt::ConnectUnix(info[0].As<Napi::String>().Utf8Value());
  return Napi::Number::New(info.Env(), socket.Release());
}

Napi::Value SendFds(const Napi::CallbackInfo& info) {
  auto payload = info[1].As<Napi::Uint8Array>();
  auto array = info[2].As<Napi::Array>();
  std::vector<int> fds;
  for (uint32_t i = 0; i < array.Length(); i++) fds.push_back(array.Get(i).As<Napi::Number>().Int32Value());
  vmckpt::SendFds(IntAt(info, 0), {payload.Data(), payload.ByteLength()}, fds);
  return info.Env().Undefined();
}

Napi::Value TryLockFile(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), vmckpt::TryLockFile(IntAt(info, 0)));
}

Napi::Value IsFileLocked(const Napi::CallbackInfo& info) {
  std::optional<int64_t> byte;
  if (info[1].IsNumber()) byte = info[1].As<Napi::Number>().Int64Value();
  return Napi::Boolean::New(info.Env(), vmckpt::IsFileLocked(IntAt(info, 0), byte));
}

// → the two ends of a connection
Napi::Value MakeSocketPair(const Napi::CallbackInfo& info) {
  auto [one, other] = vmckpt::MakeSocketPair();
  Napi::Array ends = Napi::Array::New(info.Env(), 2);
  ends.Set(0u, one.Release());
  ends.Set(1u, other.Release());
  return ends;
}

// → [read end, write end]
Napi::Value MakePipe(const Napi::CallbackInfo& info) {
  Pipe pipe = vmckpt::MakePipe(IntAt(info, 0));
  Napi::Array ends = Napi::Array::New(info.Env(), 2);
  ends.Set(0u, pipe.read_end.Release());
  ends.Set(1u, pipe.write_end.Release());
  return ends;
}

Napi::Value ReadAvailable(const Napi::CallbackInfo& info) {
  auto into = info[1].As<Napi::Uint8Array>();
  ssize_t length = vmckpt::ReadAvailable(IntAt(info, 0), into.Data(), into.ByteLength());
  return Napi::Number::New(info.Env(), static_cast<double>(length));
}

Napi::Value SyncFileRange(const Napi::CallbackInfo& info) {
  StartWriteOut(IntAt(info, 0), {.offset_bytes = Int64At(info, 1), .length_bytes = Int64At(info, 2)});
  return info.Env().Undefined();
}

// → promise, because it may wait for the disk
Napi::Value ReadAhead(const Napi::CallbackInfo& info) {
  FileRange range{.offset_bytes = Int64At(info, 1), .length_bytes = Int64At(info, 2)};
  auto work = [fd = IntAt(info, 0), range] {
    vmckpt::ReadAhead(fd, range);
    return true;
  };
  return InBackground(info.Env(), work, [](Napi::Env env, bool) { return env.Undefined(); });
}

// Never returns, and does not wait for threads that wait for a disk.
Napi::Value ExitNow(const Napi::CallbackInfo& info) { ::_exit(IntAt(info, 0)); }

Napi::Value NextData(const Napi::CallbackInfo& info) {
  int64_t found = vmckpt::NextData(IntAt(info, 0), Int64At(info, 1));
  return Napi::Number::New(info.Env(), static_cast<double>(found));
}

Napi::Value PidfdOpen(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), vmckpt::PidfdOpen(IntAt(info, 0)).Release());
}

Napi::Value PidfdGetfd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), vmckpt::PidfdGetfd(IntAt(info, 0), IntAt(info, 1)).Release());
}

Napi::Value PidfdSendSignal(const Napi::CallbackInfo& info) {
  vmckpt::PidfdSendSignal(IntAt(info, 0), IntAt(info, 1));
  return info.Env().Undefined();
}

Napi::Value Xxh3(const Napi::CallbackInfo& info) {
  auto bytes = info[0].As<Napi::Uint8Array>();
  int64_t start = Int64At(info, 1);
  int64_t end = Int64At(info, 2);
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(Checksum(bytes.Data() + start, end - start)));
}

// pages, how many, room for 16 bytes each
Napi::Value HashPages(const Napi::CallbackInfo& info) {
  auto pages = info[0].As<Napi::Uint8Array>();
  auto hashes = info[2].As<Napi::Uint8Array>();
  for (int64_t at = 0; at < Int64At(info, 1); at++) {
    Checksum128 hash = WideChecksum(pages.Data() + at * kPageBytes, kPageBytes);
    std::memcpy(hashes.Data() + at * sizeof(hash), &hash, sizeof(hash));
  }
  return info.Env().Undefined();
}

Napi::Value RescueUserfaultfd(const Napi::CallbackInfo& info) {
  RescueResult rescued = vmckpt::RescueUserfaultfd(IntAt(info, 0));
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("descriptors", Napi::Number::New(info.Env(), static_cast<double>(rescued.descriptors)));
  result.Set("regions", Napi::Number::New(info.Env(), static_cast<double>(rescued.regions)));
  return result;
}

Napi::Value TakeUserfaultfds(const Napi::CallbackInfo& info) {
  std::vector<Fd> taken = vmckpt::TakeUserfaultfds(IntAt(info, 0));
  Napi::Array fds = Napi::Array::New(info.Env(), taken.size());
  for (uint32_t i = 0; i < taken.size(); i++) fds.Set(i, taken[i].Release());
  return fds;
}

// → BigUint64Array of (start, end)…
Napi::Value MissingPageRegions(const Napi::CallbackInfo& info) {
  std::vector<AddressRange> regions = RegisteredRegions(IntAt(info, 0), kWaitsForMissing, "");
  Napi::BigUint64Array numbers = Napi::BigUint64Array::New(info.Env(), 2 * regions.size());
  for (size_t i = 0; i < regions.size(); i++) {
    numbers[2 * i] = regions[i].start;
    numbers[2 * i + 1] = regions[i].end;
  }
  return numbers;
}

Napi::Value WaitsAt(const Napi::CallbackInfo& info) {
  Options options(info[0]);
  const int userfaultfd = options.Int32("userfaultfd");
  const AddressRange range{.start = options.Uint64("start"), .end = options.Uint64("end")};
  const uint64_t page_bytes = options.Uint64("pageBytes");
  options.Finish();
  return Napi::Boolean::New(info.Env(), vmckpt::WaitsAt(userfaultfd, range, page_bytes));
}

Napi::Value PresentPages(const Napi::CallbackInfo& info) {
  std::vector<uint8_t> presence = vmckpt::PresentPages(IntAt(info, 0), Int64At(info, 1), Int64At(info, 2));
  return Napi::Buffer<uint8_t>::Copy(info.Env(), presence.data(), presence.size());
}

template <Napi::Value (*Method)(const Napi::CallbackInfo&)>
void Export(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<Guarded<Method>>(exports.Env(), name));
}

Napi::Object Initialize(Napi::Env, Napi::Object exports) {
  Export<PeerCredentials>(exports, "peerCredentials");
  Export<ConnectUnix>(exports, "connectUnix");
  Export<SendFds>(exports, "sendFds");
  Export<ReceiveFds>(exports, "receiveFds");
  Export<MakeSocketPair>(exports, "makeSocketPair");
  Export<MakePipe>(exports, "makePipe");
  Export<ReadAvailable>(exports, "readAvailable");
  Export<TryLockFile>(exports, "tryLockFile");
  Export<IsFileLocked>(exports, "isFileLocked");
  Export<SyncFileRange>(exports, "syncFileRange");
  Export<NextData>(exports, "nextData");
  Export<ReadAhead>(exports, "readAhead");
  Export<ExitNow>(exports, "exitNow");
  Export<PidfdOpen>(exports, "pidfdOpen");
  Export<PidfdGetfd>(exports, "pidfdGetfd");
  Export<PidfdSendSignal>(exports, "pidfdSendSignal");
  Export<Xxh3>(exports, "xxh3");
  Export<HashPages>(exports, "hashPages");
  Export<RescueUserfaultfd>(exports, "rescueUserfaultfd");
  Export<TakeUserfaultfds>(exports, "takeUserfaultfds");
  Export<MissingPageRegions>(exports, "missingPageRegions");
  Export<WaitsAt>(exports, "waitsAt");
  Export<PresentPages>(exports, "presentPages");
  ExportCheckpointImage(exports);
  ExportConstants(exports);
  ExportFaultBench(exports);
  ExportFaultPath(exports);
  ExportMemoryFill(exports);
  ExportSharedFile(exports);
  ExportWriteTracking(exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(vmckpt_native, Initialize)

}  // namespace vmckpt::binding
