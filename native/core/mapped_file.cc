#include "core/mapped_file.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "core/file_range.h"
#include "core/page.h"
#include "core/system_error.h"

namespace vmckpt {

namespace {

thread_local sigjmp_buf* way_out = nullptr;
struct sigaction former_action;

void OnBusError(int signal, siginfo_t*, void*) {
  if (way_out != nullptr) siglongjmp(*way_out, 1);
  // Another access failed: restore the former action, which applies when the access is repeated.
  ::sigaction(signal, &former_action, nullptr);
}

void InstallHandler() {
  static const int installed = [] {
    struct sigaction action {};
    action.sa_sigaction = OnBusError;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    return Check(::sigaction(SIGBUS, &action, &former_action), "sigaction");
  }();
  (void)installed;
}

}  // namespace

MappedFile::MappedFile(Fd file) : file_(std::move(file)) {
  InstallHandler();
  struct stat status;
  Check(::fstat(file_.get(), &status), "fstat");
  size_ = status.st_size;
  if (size_ == 0) return;
  void* mapped = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
  if (mapped == MAP_FAILED) throw SystemError(errno, "mmap");
  data_ = static_cast<const uint8_t*>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

bool MappedFile::Copy(size_t offset, size_t bytes, uint8_t* into) const {
  for (size_t done = 0; done < bytes;) {
    ssize_t length =
        RetryOnSignal([&] { return ::pread(file_.get(), into + done, bytes - done, offset + done); });
    if (length <= 0) return false;
    done += length;
  }
  return true;
}

void MappedFile::ReadAhead(size_t offset, size_t bytes) const {
  size_t start = std::min(offset, size_) / kPageBytes * kPageBytes;
  const size_t end = std::min(offset + bytes, size_);
  for (; start < end; start += kReadAheadBytes)
    (void)::madvise(const_cast<uint8_t*>(data_) + start, std::min<size_t>(kReadAheadBytes, end - start),
                    MADV_WILLNEED);
}

bool internal::RunGuarded(void (*body)(void*), void* argument) {
  sigjmp_buf here;
  sigjmp_buf* outer = way_out;
  // Without the signal mask: the handler does not change it (SA_NODEFER), and saving it takes a system call.
  if (sigsetjmp(here, 0) != 0) {
    way_out = outer;
    return false;
  }
  way_out = &here;
  body(argument);
  way_out = outer;
  return true;
}

}  // namespace vmckpt
