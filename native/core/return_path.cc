#include "core/return_path.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <string_view>

#include "core/system_error.h"

namespace vmckpt {

namespace {

enum MessageType : uint16_t { kRequestPagesOfBlock = 3, kRequestPages = 4, kReceivedBitmap = 5 };

constexpr size_t kHeaderBytes = 4;
/** start (64 bits), length (32 bits) */
constexpr size_t kRequestBytes = 12;
/** Twice the longest message. */
constexpr size_t kBufferBytes = 2 * (kHeaderBytes + UINT16_MAX + 1);
/** After a received-bitmap's name: its length. After its bits: an end mark. */
constexpr size_t kBitmapLengthBytes = 8;
constexpr size_t kBitmapEndBytes = 8;

uint64_t BigEndian(std::span<const uint8_t> bytes, size_t at, size_t length) {
  uint64_t value = 0;
  for (size_t i = 0; i < length; i++) value = value << 8 | bytes[at + i];
  return value;
}

}  // namespace

ReturnPath::ReturnPath(Fd socket, PageTable& table, Options options)
    : socket_(std::move(socket)),
      table_(table),
      options_(std::move(options)),
      stop_event_(Check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")),
      server_(server_promise_.get_future().share()),
      thread_([this] { Run(); }) {}

ReturnPath::~ReturnPath() {
  ::eventfd_write(stop_event_.get(), 1);
  if (!attached_) Attach(nullptr);
  thread_.join();
}

void ReturnPath::Attach(FaultServer* server) {
  attached_ = true;
  server_promise_.set_value(server);
}

void ReturnPath::Run() {
  std::vector<uint8_t> buffer(kBufferBytes);
  pollfd entries[] = {{.fd = socket_.get(), .events = POLLIN, .revents = 0},
                      {.fd = stop_event_.get(), .events = POLLIN, .revents = 0}};
  for (;;) {
    if (RetryOnSignal([&] { return ::poll(entries, 2, -1); }) == -1) return options_.on_closed(errno);
    if (entries[1].revents != 0) return;
    ssize_t there = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_PEEK | MSG_DONTWAIT);
    if (there == -1 && (errno == EAGAIN || errno == EINTR)) continue;
    if (there <= 0) return options_.on_closed(there == 0 ? 0 : errno);
    size_t handled = HandleMessages({buffer.data(), static_cast<size_t>(there)});
    HandOn();
    if (handled > 0) (void)!::recv(socket_.get(), buffer.data(), handled, MSG_DONTWAIT);
    // The rest of a message is on its way. The socket stays readable, so this is the only wait.
    if (handled == 0) ::poll(nullptr, 0, 1);
  }
}

size_t ReturnPath::HandleMessages(std::span<const uint8_t> bytes) {
  size_t handled = 0;
  while (handled < bytes.size()) {
    auto rest = bytes.subspan(handled);
    size_t length = passing_bytes_ > 0 ? PassOn(rest) : HandleMessage(rest);
    if (length == 0) break;
    handled += length;
  }
  return handled;
}

size_t ReturnPath::PassOn(std::span<const uint8_t> bytes) {
  size_t length = std::min<uint64_t>(passing_bytes_, bytes.size());
  Gather(bytes.first(length));
  passing_bytes_ -= length;
  return length;
}

size_t ReturnPath::HandleMessage(std::span<const uint8_t> bytes) {
  if (bytes.size() < kHeaderBytes) return 0;
  auto type = BigEndian(bytes, 0, 2);
  size_t length = kHeaderBytes + BigEndian(bytes, 2, 2);
  if (bytes.size() < length) return 0;
  if (type == kRequestPagesOfBlock || type == kRequestPages)
    return HandleRequest(bytes.first(length), type == kRequestPagesOfBlock);
  if (type == kReceivedBitmap) {
    if (bytes.size() < length + kBitmapLengthBytes) return 0;
    Gather(bytes.first(length + kBitmapLengthBytes));
    passing_bytes_ = BigEndian(bytes, length, kBitmapLengthBytes) + kBitmapEndBytes;
    return length + kBitmapLengthBytes;
  }
  Gather(bytes.first(length));
  return length;
}

/**
 * For a block that is not ours, passes the request on with the block's name: the reader there does not see
 * every request.
 */
size_t ReturnPath::HandleRequest(std::span<const uint8_t> message, bool names_block) {
  if (names_block && message.size() > kHeaderBytes + kRequestBytes) {
    size_t length = message[kHeaderBytes + kRequestBytes];
    auto name = message.subspan(kHeaderBytes + kRequestBytes + 1);
    std::string_view wanted(reinterpret_cast<const char*>(name.data()), std::min(length, name.size()));
    auto found = std::ranges::find(options_.blocks, wanted, &Block::name);
    table_.requested_block() = found - options_.blocks.begin();
  }
  uint32_t index = table_.requested_block();
  if (index >= options_.blocks.size() || message.size() < kHeaderBytes + kRequestBytes) {
    Gather(message);
    return message.size();
  }
  const Block& block = options_.blocks[index];
  FaultServer* server = block.is_direct ? AwaitServer() : nullptr;
  uint64_t start = BigEndian(message, kHeaderBytes, 8);
  uint64_t bytes = BigEndian(message, kHeaderBytes + 8, 4);
  uint64_t first = start / kPageBytes;
  uint64_t count = (bytes + kPageBytes - 1) / kPageBytes;
  bool fits = first < block.page_count && count <= block.page_count - first;
  if (server == nullptr || !fits) {
    GatherRequest(message, block.name);
  } else {
    server->ServeAll(worker_, block.first_page + first, count);
  }
  return message.size();
}

FaultServer* ReturnPath::AwaitServer() {
  // The caller of Attach() may be waiting for what came before this request.
  HandOn();
  return server_.get();
}

void ReturnPath::Gather(std::span<const uint8_t> bytes) {
  gathered_.insert(gathered_.end(), bytes.begin(), bytes.end());
}

void ReturnPath::GatherRequest(std::span<const uint8_t> message, const std::string& block_name) {
  size_t length = kRequestBytes + 1 + block_name.size();
  const uint8_t header[] = {0, kRequestPagesOfBlock, static_cast<uint8_t>(length >> 8),
                            static_cast<uint8_t>(length)};
  const auto name_length = static_cast<uint8_t>(block_name.size());
  Gather(header);
  Gather(message.subspan(kHeaderBytes, kRequestBytes));
  Gather({&name_length, 1});
  Gather({reinterpret_cast<const uint8_t*>(block_name.data()), block_name.size()});
}

void ReturnPath::HandOn() {
  if (!gathered_.empty()) options_.on_messages(gathered_);
  gathered_.clear();
}

}  // namespace vmckpt
