#include "core/wants.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>

#include "core/system_error.h"

namespace vmckpt {

namespace {

/** Written whole or not at all: at most PIPE_BUF. */
struct Record {
  PackId pack;
  uint64_t offset;
  uint32_t bytes;
  uint8_t lane;
  uint8_t flags;
  uint8_t zero[2];
};
static_assert(sizeof(Record) == 32);

constexpr uint8_t kAgain = 1;
/** 32,768 records. A user's limit may forbid it. */
constexpr int kFifoBytes = 1 << 20;

}  // namespace

PackId PackIdOf(const std::string& digits) {
  PackId id{};
  for (size_t at = 0; at < id.size() && 2 * at + 1 < digits.size(); at++)
    id[at] = static_cast<uint8_t>(std::stoul(digits.substr(2 * at, 2), nullptr, 16));
  return id;
}

Wants::Wants(Fd fifo) : fifo_(std::move(fifo)) { (void)::fcntl(fifo_.get(), F_SETPIPE_SZ, kFifoBytes); }

bool Wants::Ask(const Want& want) const {
  const Record record{.pack = want.pack,
                      .offset = want.offset,
                      .bytes = want.bytes,
                      .lane = static_cast<uint8_t>(want.lane),
                      .flags = want.again ? kAgain : uint8_t{0},
                      .zero = {}};
  const ssize_t written = RetryOnSignal([&] { return ::write(fifo_.get(), &record, sizeof(record)); });
  if (written == -1 && errno != EAGAIN) throw SystemError(errno, "write");
  return written != -1;
}

}  // namespace vmckpt
