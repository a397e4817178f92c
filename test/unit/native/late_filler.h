// A generation that is still arriving, and the double of its fetcher: a thread that brings what is wanted
// from whole packs. test/support/late-filler.ts is the same in TypeScript.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/arriving_extents.h"
#include "core/presence.h"
#include "core/shared_file.h"
#include "core/wants.h"
#include "scenario.h"

namespace vmckpt {

class LateFiller {
 public:
  /** Everything takes this long. */
  explicit LateFiller(const Source& whole, std::chrono::microseconds delay = {})
      : whole_(whole), delay_(delay), arriving_(whole) {
    arriving_.directory = whole.directory + "/arriving-" + std::to_string(made_++);
    std::filesystem::create_directory(arriving_.directory);
    std::filesystem::copy(whole.directory + "/page-chunks", arriving_.directory + "/page-chunks");
    Check(::mkfifo(File("wants").c_str(), 0600), "mkfifo");
    Check(::ftruncate(Open("arrivals", O_CREAT).get(), 4096), "ftruncate");
    wants_ = Open("wants", O_NONBLOCK);
    arrivals_ = std::make_unique<SharedFile>(Open("arrivals"), SharedFile::Use::kWrite);
    for (size_t at = 0; at < whole.facts.extent_files.size(); at++) AddPack(at);
    thread_ = std::thread([this] { Run(); });
  }
  ~LateFiller() {
    ends_ = true;
    thread_.join();
    std::filesystem::remove_all(arriving_.directory);
  }

  ArrivalFiles Files() const {
    ArrivalFiles files{.presence = {}, .wants = Open("wants", O_NONBLOCK), .arrivals = Open("arrivals")};
    for (const ExtentFileFacts& pack : arriving_.facts.extent_files)
      files.presence.push_back(Open(pack.name + ".present"));
    return files;
  }
  CatalogFiles Indexes() const { return arriving_.Indexes(); }
  std::vector<Fd> Packs() const { return arriving_.Packs(); }

  /** Does not bring the blocks that only this extent has. */
  void Withhold(const ExtentRecord& record) {
    std::lock_guard lock(mutex_);
    for (uint64_t block : OwnBlocks(record)) withheld_blocks_.insert(block);
  }
  void Deliver(const ExtentRecord& record) {
    std::lock_guard lock(mutex_);
    for (uint64_t block : OwnBlocks(record)) withheld_blocks_.erase(block);
    for (auto& [id, pack] : packs_) Bring(pack, record.offset, record.stored_bytes);
    RaiseWord(arrivals());
  }

  /** Flips a byte of what is here or comes next; only once. */
  void DamageOnce(const ExtentRecord& record) {
    std::lock_guard lock(mutex_);
    damaged_once_ = record.offset;
  }

  unsigned want_count() const { return want_count_; }
  unsigned again_count() const { return again_count_; }

 private:
  struct Pack {
    Fd from;
    Fd to;
    std::unique_ptr<SharedFile> present;
    uint64_t bytes;
  };
  struct Record {
    PackId pack;
    uint64_t offset;
    uint32_t bytes;
    uint8_t lane;
    uint8_t flags;
    uint8_t zero[2];
  };

  std::string File(const std::string& name) const { return arriving_.directory + "/" + name; }
  Fd Open(const std::string& name, int flags = 0) const {
    return Fd(Check(::open(File(name).c_str(), O_RDWR | O_CLOEXEC | flags, 0600), "open"));
  }
  std::atomic<uint32_t>& arrivals() { return *reinterpret_cast<std::atomic<uint32_t>*>(arrivals_->data()); }

  /** Sparse, but for what follows the extents and for the header. */
  void AddPack(size_t at) {
    const ExtentFileFacts& facts = whole_.facts.extent_files[at];
    Pack pack{
        .from = whole_.File(facts.name.c_str()), .to = Open(facts.name, O_CREAT), .present = {}, .bytes = 0};
    struct stat status;
    Check(::fstat(pack.from.get(), &status), "fstat");
    pack.bytes = status.st_size;
    Check(::ftruncate(pack.to.get(), pack.bytes), "ftruncate");
    Fd present = Open(facts.name + ".present", O_CREAT);
    Check(::ftruncate(present.get(), Presence::kHeaderBytes + pack.bytes / Presence::kBlockBytes / 8 + 1),
          "ftruncate");
    pack.present = std::make_unique<SharedFile>(present, SharedFile::Use::kWrite);
    std::memcpy(pack.present->data(), "VMCKPTpr", 8);
    const std::array<uint32_t, 2> numbers = {1, Presence::kBlockBytes};
    std::memcpy(pack.present->data() + 8, numbers.data(), sizeof(numbers));
    std::memcpy(pack.present->data() + 16, &pack.bytes, sizeof(pack.bytes));
    Pack& added = packs_[PackIdOf(facts.id)] = std::move(pack);
    Bring(added, 0, 1);
    const uint64_t indexes = std::min(facts.records_offset, facts.chunks_offset);
    Bring(added, indexes, added.bytes - indexes);
  }

  static std::vector<uint64_t> OwnBlocks(const ExtentRecord& record) {
    std::vector<uint64_t> blocks;
    const uint64_t end = (record.offset + record.stored_bytes) / Presence::kBlockBytes;
    for (uint64_t block = (record.offset + Presence::kBlockBytes - 1) / Presence::kBlockBytes; block < end;
         block++)
      blocks.push_back(block);
    EXPECT(!blocks.empty());
    return blocks;
  }

  void Bring(Pack& pack, uint64_t offset, uint64_t bytes) {
    const uint64_t end = std::min(pack.bytes, offset + bytes);
    for (uint64_t block = offset / Presence::kBlockBytes; block * Presence::kBlockBytes < end; block++) {
      const bool is_here = (Bits(pack, block) >> block % 8 & 1) != 0;
      if (is_here || withheld_blocks_.contains(block)) continue;
      uint8_t room[Presence::kBlockBytes];
      const auto at = static_cast<off_t>(block * sizeof(room));
      const ssize_t length = Check(::pread(pack.from.get(), room, sizeof(room), at), "pread");
      if (damaged_once_ / Presence::kBlockBytes == block) {
        room[damaged_once_ % sizeof(room)] ^= 1;
        damaged_once_ = 0;
      }
      EXPECT(::pwrite(pack.to.get(), room, length, at) == length);
      Bits(pack, block).fetch_or(1 << block % 8);
    }
  }

  static std::atomic<uint8_t>& Bits(Pack& pack, uint64_t block) {
    return *reinterpret_cast<std::atomic<uint8_t>*>(pack.present->data() + Presence::kHeaderBytes +
                                                    block / 8);
  }

  void BringAgain(Pack& pack, const Record& record) {
    again_count_++;
    const uint64_t end = record.offset + record.bytes;
    for (uint64_t block = record.offset / Presence::kBlockBytes; block * Presence::kBlockBytes < end; block++)
      Bits(pack, block).fetch_and(~(1 << block % 8));
    Bring(pack, record.offset, record.bytes);
    auto& count = *reinterpret_cast<std::atomic<uint32_t>*>(pack.present->data() + Presence::kRefetchCountAt);
    std::memcpy(pack.present->data() + Presence::kRefetchesAt +
                    count % Presence::kRefetchSlots * sizeof(record.offset),
                &record.offset, sizeof(record.offset));
    count++;
  }

  void Run() {
    while (!ends_) {
      Record record;
      pollfd entry{.fd = wants_.get(), .events = POLLIN, .revents = 0};
      (void)::poll(&entry, 1, 10);
      const ssize_t length = ::read(wants_.get(), &record, sizeof(record));
      if (length == -1) continue;
      EXPECT(length == sizeof(record));
      want_count_++;
      if (delay_.count() > 0) std::this_thread::sleep_for(delay_);
      std::lock_guard lock(mutex_);
      Pack& pack = packs_.at(record.pack);
      if (record.flags == 1)
        BringAgain(pack, record);
      else
        Bring(pack, record.offset, record.bytes);
      RaiseWord(arrivals());
    }
  }

  static inline std::atomic<unsigned> made_{0};

  const Source& whole_;
  const std::chrono::microseconds delay_;
  Source arriving_;
  std::map<PackId, Pack> packs_;
  Fd wants_;
  std::unique_ptr<SharedFile> arrivals_;
  std::mutex mutex_;
  std::set<uint64_t> withheld_blocks_;
  uint64_t damaged_once_ = 0;
  std::atomic<unsigned> want_count_{0};
  std::atomic<unsigned> again_count_{0};
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

}  // namespace vmckpt
