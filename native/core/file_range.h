// Locks on whole files that belong to an open file description (fcntl(2), "Open file description locks");
// starting the write-out of a range without waiting (sync_file_range(2)); holes (lseek(2)); and read-ahead
// (posix_fadvise(2)).
#pragma once

#include <cstdint>
#include <optional>

namespace vmckpt {

/** Takes the exclusive lock; false when another open file description holds one. `fd` must be writable. */
bool TryLockFile(int fd);

/** Whether an open file description other than `fd`'s holds a lock: on any byte, or on the one at `byte`. */
bool IsFileLocked(int fd, std::optional<int64_t> byte);

struct FileRange {
  int64_t offset_bytes;
  int64_t length_bytes;
};

void StartWriteOut(int fd, const FileRange& range);

/** Offset of the next data of the file, at or after `offset_bytes`; -1 when none follows. */
int64_t NextData(int fd, int64_t offset_bytes);

/** On most hosts the kernel reads no more than this for one request, and ignores the rest. */
constexpr int64_t kReadAheadBytes = 128 << 10;

/** Starts to read what the file has of the range into the page cache. May wait for room in the disk's queue.
 */
void ReadAhead(int fd, const FileRange& range);

}  // namespace vmckpt
