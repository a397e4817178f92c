// Reads QEMU's return path (from a migration's destination to its source) on a separate thread. Requests for
// pages of a fault server go straight to it. Everything else is passed on verbatim, in whole messages.
//
// A message is taken from the socket only after it was handled, so a successor of a dead reader finds the
// socket at the start of a message. docs/postcopy.md has the conversation.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/fault_server.h"
#include "core/fd.h"
#include "core/page_table.h"

namespace vmckpt {

class ReturnPath {
 public:
  struct Block {
    std::string name;
    uint64_t first_page;
    uint64_t page_count;
    /** Whether the fault server installs its pages. */
    bool is_direct;
  };

  struct Options {
    std::vector<Block> blocks;
    /** Whole messages, in order. */
    std::function<void(std::span<const uint8_t>)> on_messages;
    /** The connection has ended or is broken: `error` is an errno value, or 0. */
    std::function<void(int error)> on_closed;
  };

  /** `table` stores which block was named last, and outlives the reader. */
  ReturnPath(Fd socket, PageTable& table, Options options);
  ~ReturnPath();
  ReturnPath(const ReturnPath&) = delete;

  /**
   * From here on `server`, which outlives this object, serves requests for direct blocks, which have waited
   * for it. nullptr: they are passed on as well. May be called once.
   */
  void Attach(FaultServer* server);

 private:
  void Run();
  /** Handles all whole messages in `bytes`; returns their length. */
  size_t HandleMessages(std::span<const uint8_t> bytes);
  /** Handles the message at the start of `bytes`; returns its length, or 0 while it is incomplete. */
  size_t HandleMessage(std::span<const uint8_t> bytes);
  size_t HandleRequest(std::span<const uint8_t> message, bool names_block);
  /** Handles bytes of a received-bitmap. */
  size_t PassOn(std::span<const uint8_t> bytes);
  void Gather(std::span<const uint8_t> bytes);
  void GatherRequest(std::span<const uint8_t> message, const std::string& block_name);
  void HandOn();
  FaultServer* AwaitServer();

  Fd socket_;
  PageTable& table_;
  Options options_;
  Fd stop_event_;
  std::promise<FaultServer*> server_promise_;
  std::shared_future<FaultServer*> server_;
  bool attached_ = false;
  FaultServer::Worker worker_;
  /** Bytes of a received-bitmap that follow its message. */
  uint64_t passing_bytes_ = 0;
  std::vector<uint8_t> gathered_;
  std::thread thread_;
};

}  // namespace vmckpt
