// What a process gives up before it opens a file that somebody else wrote.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace modeld {

enum class SocketRule {
  kUnixOnly,  // socket(AF_UNIX) works, every other family is EAFNOSUPPORT
  kNone,      // every socket is EAFNOSUPPORT
};

struct SandboxOptions {
  SocketRule sockets = SocketRule::kUnixOnly;
  int64_t address_space_bytes =
      0;  // RLIMIT_AS; 0: no limit. Not set under a sanitizer, which maps terabytes
  int64_t cpu_seconds = 0;  // RLIMIT_CPU; 0: no limit
};

// For the whole process, for ever: no core file, not dumpable (so no other process of this user can
// read its memory), no new privileges, no network (seccomp, every thread), no ptrace, no io_uring
// (which would open sockets behind seccomp's back). INTERNAL when the kernel refuses.
absl::Status EnterSandbox(const SandboxOptions& options);

// Removes what belongs to the daemon from the environment: hub tokens, database passwords, and
// everything else that begins with MODELD_. Overwrites the values first, as /proc/self/environ
// keeps showing the memory of the start. Before the first thread.
void ForgetSecrets();

}  // namespace modeld
