#include "core/file_range.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "core/system_error.h"

namespace vmckpt {

namespace {

struct flock WholeFile() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

bool TryLockFile(int fd) {
  struct flock lock = WholeFile();
  if (::fcntl(fd, F_OFD_SETLK, &lock) == 0) return true;
  if (errno == EAGAIN || errno == EACCES) return false;
  throw SystemError(errno, "fcntl");
}

bool IsFileLocked(int fd, std::optional<int64_t> byte) {
  struct flock lock = WholeFile();
  if (byte) {
    lock.l_start = *byte;
    lock.l_len = 1;
  }
  Check(::fcntl(fd, F_OFD_GETLK, &lock), "fcntl");
  return lock.l_type != F_UNLCK;
}

void StartWriteOut(int fd, const FileRange& range) {
  Check(::sync_file_range(fd, range.offset_bytes, range.length_bytes, SYNC_FILE_RANGE_WRITE),
        "sync_file_range");
}

int64_t NextData(int fd, int64_t offset_bytes) {
  off_t found = ::lseek(fd, offset_bytes, SEEK_DATA);
  if (found == -1 && errno == ENXIO) return -1;
  return Check(found, "lseek");
}

void ReadAhead(int fd, const FileRange& range) {
  struct stat status;
  Check(::fstat(fd, &status), "fstat");
  const off_t end = std::min<off_t>(status.st_size, range.offset_bytes + range.length_bytes);
  for (off_t at = range.offset_bytes; at < end; at += kReadAheadBytes)
    if (int error = ::posix_fadvise(fd, at, kReadAheadBytes, POSIX_FADV_WILLNEED))
      throw SystemError(error, "posix_fadvise");
}

}  // namespace vmckpt
