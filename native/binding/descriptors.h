// Descriptors that JavaScript passes; it keeps and closes its own.
#pragma once

#include <fcntl.h>
#include <napi.h>

#include "core/fd.h"
#include "core/system_error.h"

namespace vmckpt::binding {

inline Fd Duplicate(Napi::Value fd) {
  return Fd(Check(::fcntl(fd.As<Napi::Number>().Int32Value(), F_DUPFD_CLOEXEC, 0), "fcntl"));
}

}  // namespace vmckpt::binding
