// What the seccomp(2) filters of a stopped thread would say to a system call, found out without making it: a
// filter that kills is not tried on a VM.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/types.h>

#include <cstdint>
#include <span>
#include <vector>

namespace vmckpt {

using SeccompFilter = std::vector<sock_filter>;

/** Throws SystemError: EACCES without CAP_SYS_ADMIN, or under a filter of our own. */
std::vector<SeccompFilter> SeccompFiltersOf(pid_t thread);

/** The action, one of SECCOMP_RET_*, that a filter has for the call; one that makes no sense kills. */
uint32_t VerdictOf(std::span<const sock_filter> filter, const seccomp_data& call);

}  // namespace vmckpt
